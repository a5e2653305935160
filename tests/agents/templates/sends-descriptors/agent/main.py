import array
import os
import socket

import takeover


def send(sock, word):
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    rights = array.array("i", files)
    sock.sendmsg([word], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    for fd in files:
        os.close(fd)


def serve(channel):
    send(channel, takeover.READY)
    while True:
        word, fds = takeover.received(channel)
        if not word:
            return
        birth = socket.socket(fileno=fds[0])
        if takeover.clone() == 0:
            takeover.libc.prctl(4, 1, 0, 0, 0)
            send(birth, takeover.HELLO)
            birth.recv(1)
            send(birth, takeover.WALLED)
            report, payload = takeover.take_job(birth)
            takeover.answer(report, handle(payload))
            os._exit(0)
        birth.close()


takeover.after_import(serve)


def handle(payload):
    return {"tried": ["send"], "achieved": []}
