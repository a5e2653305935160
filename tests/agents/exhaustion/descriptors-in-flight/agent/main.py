import socket


def handle(payload):
    ours, _theirs = pair = socket.socketpair()
    ours.settimeout(0)
    count = 0
    try:
        while count < 5000:
            socket.send_fds(ours, [b"x"], [pair[1].fileno()] * 20)
            count += 20
    except OSError:
        pass
    achieved = ["more_than_600"] if count > 600 else []
    return {"achieved": achieved, "tried": ["more_than_600"], "count": count}
