import ctypes
import resource

import takeover

libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
CALLS = {
    "unshare a user namespace": lambda: libc.unshare(NEWUSER),
    "unshare a pid namespace": lambda: libc.unshare(NEWPID),
    "unshare a network": lambda: libc.unshare(NEWNET),
    "mount": lambda: libc.mount(b"x", b"/scratch/run", b"tmpfs", 0, None),
    "unmount": lambda: libc.umount2(b"/agent", 2),
    "change the root": lambda: libc.chroot(b"/scratch/run"),
    "be root": lambda: libc.setuid(0),
    "fork": lambda: libc.fork(),
    "leave the session": lambda: libc.setsid(),
    "leave the group": lambda: libc.setpgid(0, 0),
    "trace its init": lambda: libc.ptrace(16, 1, 0, 0),
    "a socket": lambda: libc.socket(2, 1, 0),
    "make a device": lambda: libc.mknod(b"/scratch/run/hostile-device", 0o020666, 0x0101),
    "more processes": lambda: libc.setrlimit(resource.RLIMIT_NPROC, (ctypes.c_long * 2)(-1, -1)),
    "a name for the machine": lambda: libc.sethostname(b"hostile", 7),
    "a lower nice": lambda: -1 if libc.nice(-5) == -1 else 0,
    "real time": lambda: libc.sched_setscheduler(0, 1, (ctypes.c_int * 1)(1)),
}


def try_all():
    achieved = [name for name, call in CALLS.items() if call() != -1]
    if resource.getrlimit(resource.RLIMIT_NPROC)[1] > 64:
        achieved.append("room for processes")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 64:
        achieved.append("room for files")
    return {"tried": list(CALLS), "achieved": achieved}


def serve(birth):
    takeover.become_spare(birth)
    report, _payload = takeover.take_job(birth)
    takeover.answer(report, try_all())


takeover.after_import(lambda channel: takeover.serve(channel, serve))


def handle(payload):
    return try_all()
