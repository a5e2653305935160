import os
import socket
import subprocess
import sys

SOURCE = "import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)"


def program(facts):
    command = [sys.executable, "-c", SOURCE.format(port=facts["tcp_port"])]
    return subprocess.run(command, capture_output=True, timeout=2).returncode == 0


def forked(facts):
    pid = os.fork()
    if pid == 0:
        try:
            socket.create_connection(("127.0.0.1", facts["tcp_port"]), timeout=0.5)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def tool(facts):
    url = f"http://127.0.0.1:{facts['tcp_port']}"
    for name in ("curl", "wget", "nc", "bash", "ping", "ssh"):
        try:
            subprocess.run([name, url], capture_output=True, timeout=1)
            return True
        except subprocess.TimeoutExpired:
            return True
        except FileNotFoundError:
            continue
    return False


ATTACKS = {"a program": program, "a fork": forked, "a tool": tool}


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
