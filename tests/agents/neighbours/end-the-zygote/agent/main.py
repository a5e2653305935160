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


ATTACKS = {
    "kill": lambda facts: os.kill(facts["zygote_pid"], signal.SIGKILL),
    "stop": lambda facts: os.kill(facts["zygote_pid"], signal.SIGSTOP),
    "its group": lambda facts: os.killpg(facts["zygote_pid"], signal.SIGKILL),
    "the parent": lambda facts: (
        os.kill(os.getppid(), signal.SIGKILL) if os.getppid() > 1 else False
    ),
    "through a pidfd": lambda facts: call(
        (424, 424), call((434, 434), facts["zygote_pid"], 0), 9, None, 0
    ),
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
