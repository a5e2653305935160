"""Takes a template over when its import has been found fit: from a callback of the collector.

Stands beside the code of every case of this category. In a process that is no template nothing
happens, so that a case is an ordinary agent where every run imports.
"""

import array
import ctypes
import gc
import json
import os
import platform
import signal
import socket
import struct

REPORT, CHANNEL = 3, 5
HELLO, GO, WALLED, READY = b"h", b"g", b"w", b"r"
# NEWUSER, NEWNS, NEWIPC, PARENT, CHILD_SETTID, CHILD_CLEARTID: what the filter lets pass.
FLAGS = 0x10000000 | 0x00020000 | 0x08000000 | 0x00008000 | 0x01000000 | 0x00200000
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_long] * 6
_CLONE, _PLACE = (56, 3) if platform.machine() == "x86_64" else (220, 4)
_thread_id = ctypes.c_int()


def is_template():
    try:
        socket.socket(fileno=os.dup(CHANNEL)).close()
    except OSError:
        return False
    return True


def after_import(action):
    """Have `action(channel)` done instead of serving; the process ends with it."""
    if not is_template():
        return

    def hook(_phase, _info):
        try:
            os.fstat(REPORT)
        except OSError:  # closed: the import was reported as fit
            gc.callbacks.remove(hook)
            try:
                action(socket.socket(fileno=CHANNEL))
            finally:
                os._exit(0)

    gc.callbacks.append(hook)


def clone():
    """Clone this process as a template may; 0 in the clone, -1 where it is refused."""
    arguments = [FLAGS | signal.SIGCHLD, 0, 0, 0, 0]
    arguments[_PLACE] = ctypes.addressof(_thread_id)
    return libc.syscall(_CLONE, *arguments)


def received(sock):
    """Return a word and the descriptors that came with it."""
    word, ancillary, _flags, _address = sock.recvmsg(1, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _level, _kind, data in ancillary:
        fds.frombytes(data[: len(data) // 4 * 4])
    return word, list(fds)


def births(channel):
    """Say that the template is ready; yield the socket of each birth that is asked for."""
    channel.send(READY)
    while True:
        word, fds = received(channel)
        if not word:
            return
        yield socket.socket(fileno=fds[0])


def serve(channel, be_spare):
    """Clone as asked; what a clone does is up to `be_spare(birth)`."""
    for birth in births(channel):
        if clone() == 0:
            channel.close()
            be_spare(birth)
            os._exit(0)
        birth.close()


def become_spare(birth):
    """Say what a spare says, without any wall of its own."""
    libc.prctl(4, 1, 0, 0, 0)
    birth.send(HELLO)
    birth.recv(1)
    birth.send(WALLED)


def take_job(birth):
    """Wait for a job; return where to report, and the payload."""
    _word, fds = received(birth)
    if not fds:
        os._exit(0)
    report, log, job = fds
    os.dup2(log, 1)
    text = b""
    while piece := os.read(job, 1 << 16):
        text += piece
    # A frame that tells the job, then the payload.
    return report, json.loads(text[4 + struct.unpack_from(">I", text)[0] :])


def answer(report, result):
    """Report a result as a run does."""
    body = json.dumps({"kind": "returned", "result": result}).encode()
    os.write(report, struct.pack(">I", len(body)) + body)
