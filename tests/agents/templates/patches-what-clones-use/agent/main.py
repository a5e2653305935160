import array
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct

calls = []


def spoil(module, name):
    real = getattr(module, name)

    def patched(*arguments, **keywords):
        calls.append(name)
        return real(*arguments, **keywords)

    try:
        setattr(module, name, patched)
    except (AttributeError, TypeError):
        pass


libc = ctypes.CDLL(None, use_errno=True)
for module in (os, fcntl, gc, importlib, json, resource, signal, socket, struct, array, ctypes):
    for name in list(vars(module)):
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type):
            if module is not os or name not in ("fspath", "lstat", "stat"):
                spoil(module, name)
os.fork = os._exit = os.getpid = lambda *_: 0
signal.SIGKILL = signal.SIGTERM = 0


def handle(payload):
    achieved = []
    if libc.unshare(0x10000000) != -1 or libc.fork() != -1 or libc.setsid() != -1:
        achieved.append("walls")
    return {"tried": ["patch"], "achieved": achieved}
