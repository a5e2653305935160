import threading


def handle(payload):
    threading.stack_size(32768)
    forever, count = threading.Event(), 0
    try:
        while count < 5000:
            threading.Thread(target=forever.wait, daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    tried = [200, 4000]
    achieved = [f"more_than_{many}_threads" for many in tried if count > many]
    return {"achieved": achieved, "tried": tried, "count": count}
