import ctypes
import os
import signal
import socket

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
AT_IMPORT = os.getpid()
GROUP = os.getpgid(0)
state = {"poison": 0}
secret = ctypes.create_string_buffer(b"clean")


def write_memory(pid):
    text = ctypes.create_string_buffer(b"dirty")
    place = (ctypes.c_size_t * 2)(ctypes.addressof(text), 5)
    there = (ctypes.c_size_t * 2)(ctypes.addressof(secret), 5)
    return libc.process_vm_writev(pid, ctypes.byref(place), 1, ctypes.byref(there), 1, 0) != -1


def write_through_proc(pid):
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as file:
        file.seek(ctypes.addressof(secret))
        file.write(b"dirty")


ATTACKS = {
    "trace": lambda pid: libc.ptrace(16, pid, 0, 0) != -1,
    "seize": lambda pid: libc.ptrace(0x4206, pid, 0, 0) != -1,
    "write memory": write_memory,
    "write through /proc": write_through_proc,
    "end": lambda pid: os.kill(pid, signal.SIGKILL),
    "stop": lambda pid: os.kill(pid, signal.SIGSTOP),
    "queue": lambda pid: libc.syscall(129, pid, signal.SIGKILL, 0) != -1,
    "end its thread": lambda pid: libc.syscall(234, pid, pid, signal.SIGKILL) != -1,
    "slow": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19),
    "slow the group": lambda pid: os.setpriority(os.PRIO_PGRP, GROUP, 19),
    "bind": lambda pid: os.sched_setaffinity(pid, {0}),
    "idle": lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
    "limit": lambda pid: __import__("resource").prlimit(pid, 7, (1, 1)),
    "open": lambda pid: os.pidfd_open(pid),
    "compare": lambda pid: libc.syscall(312, pid, os.getpid(), 1, 0, 0) != -1,
    "move": lambda pid: os.setpgid(pid, 0),
    "signal the group": lambda pid: os.killpg(GROUP, signal.SIGKILL),
    "signal all": lambda pid: os.kill(-1, signal.SIGKILL),
}


def is_socket(fd):
    try:
        socket.socket(fileno=os.dup(fd)).close()
    except OSError:
        return False
    return True


def handle(payload):
    achieved = [name for name, value in state.items() if value]
    achieved += [secret.value.decode()] if secret.value != b"clean" else []
    achieved += [f"socket {fd}" for fd in range(64) if is_socket(fd)]
    state["poison"], secret.value = 1, b"dirty"
    others = set(range(1, 64)) | {AT_IMPORT}
    for name, attack in ATTACKS.items():
        for pid in sorted(others - {os.getpid()}):
            try:
                if attack(pid) is not False:
                    achieved.append(f"{name} {pid}")
            except OSError:
                pass
    return {"tried": list(ATTACKS), "achieved": achieved}
