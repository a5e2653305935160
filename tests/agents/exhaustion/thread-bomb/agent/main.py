import threading


def handle(payload):
    forever, count = threading.Event(), 0
    try:
        while count < 1000:
            threading.Thread(target=forever.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    achieved = ["more_than_200_threads"] if count > 200 else []
    return {"achieved": achieved, "tried": ["more_than_200_threads"], "count": count}
