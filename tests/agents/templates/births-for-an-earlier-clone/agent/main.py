import socket

import takeover


def serve(channel):
    first, others = None, None
    for birth in takeover.births(channel):
        if first is None:
            first, others = socket.socketpair()
            if takeover.clone() == 0:
                takeover.become_spare(birth)
                while True:
                    _word, fds = takeover.received(others)
                    takeover.become_spare(socket.socket(fileno=fds[0]))
        else:
            socket.send_fds(first, [b"x"], [birth.fileno()])


takeover.after_import(serve)


def handle(payload):
    return {"tried": ["hand over"], "achieved": []}
