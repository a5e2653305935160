import os
import stat


def first(action, items):
    """Tell whether an action works on any of the items."""
    for item in items:
        try:
            if action(item) is not False:
                return True
        except OSError:
            pass
    return False


DEVICES = {
    "memory": (1, 1),
    "kernel log": (1, 11),
    "disk": (8, 0),
    "virtual disk": (254, 0),
    "loop": (7, 0),
}
NAMES = (
    "mem kmem port kmsg sda vda nvme0n1 loop-control loop0 fuse kvm net/tun tty console ptmx tty0 "
    "pts/ptmx tty1 uinput vhost-vsock vhost-net mapper/control userfaultfd rtc0 "
    "autofs btrfs-control cuse vcs dri/card0 snd/timer hwrng log initctl"
).split()


def make(kind, number):
    def attack(facts):
        os.mknod(f"hostile-{number[0]}-{number[1]}", kind | 0o600, os.makedev(*number))
        return True

    return attack


ATTACKS = {f"make: {n}": make(stat.S_IFCHR, d) for n, d in DEVICES.items()}
ATTACKS |= {f"make as disk: {n}": make(stat.S_IFBLK, d) for n, d in DEVICES.items()}
ATTACKS["open"] = lambda facts: first(lambda name: os.open(f"/dev/{name}", os.O_RDONLY), NAMES)
ATTACKS["open to write"] = lambda facts: first(
    lambda name: os.open(f"/dev/{name}", os.O_WRONLY), NAMES
)
ATTACKS["list"] = lambda facts: (
    set(os.listdir("/dev")) - {"null", "zero", "full", "random", "urandom"} or False
)


def handle(payload):
    facts, achieved = payload["facts"], []
    for name, attack in ATTACKS.items():
        try:
            if attack(facts) is not False:
                achieved.append(name)
        except OSError:
            pass
    return {"tried": list(ATTACKS), "achieved": achieved}
