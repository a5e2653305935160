import array
import socket


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


def connect(kind, address_of):
    def attack(facts):
        with socket.socket(socket.AF_UNIX, kind) as one:
            one.connect(address_of(facts))
        return True

    return attack


def from_a_pair(kind):
    """A socket of a pair is a socket: it may be sent elsewhere."""

    def attack(facts):
        with socket.socketpair(socket.AF_UNIX, kind)[0] as one:
            names = [
                "\0" + facts["abstract_datagram"],
                facts["socket_path"],
                "\0" + facts["abstract"],
            ]
            return first(lambda name: one.sendto(b"hostile", name), names) or first(
                one.connect, names
            )

    return attack


def send_descriptor(facts):
    with socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0] as one:
        fds = array.array("i", [1])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        return one.sendmsg([b"x"], rights, 0, "\0" + facts["abstract_datagram"])


def known(path):
    return connect(socket.SOCK_STREAM, lambda facts: path)(None)


DAEMONS = ["/run/dbus/system_bus_socket", "/var/run/docker.sock", "/run/containerd/containerd.sock"]
DAEMONS += [
    "/run/systemd/private",
    "/run/systemd/notify",
    "/dev/log",
    "/tmp/.X11-unix/X0",
    "\0/tmp/.X11-unix/X0",
]
ATTACKS = {
    "abstract": connect(socket.SOCK_STREAM, lambda facts: "\0" + facts["abstract"]),
    "abstract datagram": connect(
        socket.SOCK_DGRAM, lambda facts: "\0" + facts["abstract_datagram"]
    ),
    "by its path": connect(socket.SOCK_STREAM, lambda facts: facts["socket_path"]),
    "from a pair of streams": from_a_pair(socket.SOCK_STREAM),
    "from a pair of datagrams": from_a_pair(socket.SOCK_DGRAM),
    "from a pair of packets": from_a_pair(socket.SOCK_SEQPACKET),
    "send a descriptor": send_descriptor,
    "daemons": lambda facts: first(known, DAEMONS),
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
