import ctypes
import os
import signal

SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
SYSCALL.restype = ctypes.c_long
COLUMN = 0 if os.uname().machine == "x86_64" else 1


def call(numbers, *arguments):
    """Make a system call by its number on x86-64 and on aarch64."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    answer = SYSCALL(ctypes.c_long(numbers[COLUMN]), *words)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return answer


TKILL, TGKILL, QUEUE, TGQUEUE = (200, 130), (234, 131), (129, 138), (297, 240)
PIDFD_OPEN, PIDFD_SEND = (434, 434), (424, 424)


def info(number):
    return (ctypes.c_int * 32)(number, 0, -1)


def through_pidfd(facts):
    return call(PIDFD_SEND, call(PIDFD_OPEN, facts["neighbour_pid"], 0), signal.SIGTERM, None, 0)


def its_init(facts):
    pid = facts["neighbour_init_pid"]
    return os.kill(pid, signal.SIGKILL)


ATTACKS = {
    "kill": lambda facts: os.kill(facts["neighbour_pid"], signal.SIGTERM),
    "kill for good": lambda facts: os.kill(facts["neighbour_pid"], signal.SIGKILL),
    "stop": lambda facts: os.kill(facts["neighbour_pid"], signal.SIGSTOP),
    "its group": lambda facts: os.killpg(facts["neighbour_pid"], signal.SIGKILL),
    "its init": its_init,
    "one thread": lambda facts: call(TKILL, facts["neighbour_pid"], signal.SIGUSR1),
    "a thread of its group": lambda facts: call(
        TGKILL, *[facts["neighbour_pid"]] * 2, signal.SIGUSR1
    ),
    "queued": lambda facts: call(
        QUEUE, facts["neighbour_pid"], signal.SIGUSR1, info(signal.SIGUSR1)
    ),
    "queued to a thread": lambda facts: call(
        TGQUEUE, *[facts["neighbour_pid"]] * 2, signal.SIGUSR1, info(signal.SIGUSR1)
    ),
    "through a pidfd": through_pidfd,
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
