import ctypes
import os

CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]


def handle(payload):
    libc = ctypes.PyDLL(None)
    # Parent and child share memory, but the child alone runs until it ends: it never does.
    libc.syscall(CLONE, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0)
    while True:
        libc.pause()
