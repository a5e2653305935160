import asyncio
import socket


def serve(family, address_of, kind=socket.SOCK_STREAM):
    def attack(facts):
        with socket.socket(family, kind) as one:
            one.bind(address_of(facts))
            if kind == socket.SOCK_STREAM:
                one.listen()
        return True

    return attack


def on_a_pair(facts):
    with socket.socketpair()[0] as one:
        one.bind("\0" + facts["mark"])
    return True


async def with_asyncio():
    server = await asyncio.start_server(print, "127.0.0.1", 0)
    opened = len(server.sockets)  # asyncio passes over those that cannot be had
    server.close()
    return opened > 0


ATTACKS = {
    "everywhere": serve(socket.AF_INET, lambda facts: ("0.0.0.0", 0)),
    "here": serve(socket.AF_INET, lambda facts: ("127.0.0.1", 0)),
    "everywhere, IPv6": serve(socket.AF_INET6, lambda facts: ("::", 0)),
    "datagrams": serve(socket.AF_INET, lambda facts: ("0.0.0.0", 0), socket.SOCK_DGRAM),
    "the server's own port": serve(
        socket.AF_INET, lambda facts: ("127.0.0.1", facts["server_port"])
    ),
    "a path": serve(socket.AF_UNIX, lambda facts: "hostile-socket"),
    "an abstract name": serve(socket.AF_UNIX, lambda facts: "\0" + facts["mark"]),
    "an abstract name on a pair": on_a_pair,
    "asyncio": lambda facts: asyncio.run(with_asyncio()),
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
