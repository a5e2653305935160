import asyncio
import http.client
import socket
import urllib.request


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


HOSTS = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "127.1.2.3", socket.gethostname())


def connect(host, port):
    socket.create_connection((host, port), timeout=0.5).close()


def fetch(facts):
    try:
        return urllib.request.urlopen(
            f"http://127.0.0.1:{facts['server_port']}/health", timeout=1
        ).status
    except (OSError, http.client.HTTPException):
        return False


async def stream(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


ATTACKS = {
    "connect": lambda facts: first(lambda host: connect(host, facts["server_port"]), HOSTS),
    "urllib": fetch,
    "asyncio": lambda facts: asyncio.run(stream(facts["server_port"])),
    "any port": lambda facts: first(lambda port: connect("127.0.0.1", port), range(1, 300)),
}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
