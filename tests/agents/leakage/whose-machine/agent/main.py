import grp
import os
import pwd
import socket


def real_name(facts):
    return socket.gethostname() != "sandbox" or os.uname().nodename != "sandbox"


def people():
    return {one.pw_name for one in pwd.getpwall()} - {"agent"}


def logged_in(facts):
    try:
        return os.getlogin()
    except OSError:
        return False


ATTACKS = {
    "host name": real_name,
    "people": lambda facts: people() or False,
    "groups": lambda facts: {one.gr_name for one in grp.getgrall()} - {"agent"} or False,
    "its own name": lambda facts: pwd.getpwuid(os.getuid()).pw_name != "agent",
    "its number": lambda facts: os.getuid() != 1000 or os.getgid() != 1000,
    "its groups": lambda facts: set(os.getgroups()) - {1000, 65534} or False,
    "who is logged in": logged_in,
    "its home": lambda facts: os.path.expanduser("~") != os.getcwd(),
    "another home": lambda facts: os.path.expanduser("~root") == "/root",
    "parent": lambda facts: os.getppid() > 1,
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
