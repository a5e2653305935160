import os


def handle(payload):
    kept, total = [], 0
    try:
        while len(kept) < 40:
            kept.append(open("hidden", "wb", buffering=0))
            os.unlink("hidden")
            for _ in range(20):
                total += kept[-1].write(bytes(1 << 20))
    except OSError:
        pass
    achieved = ["more_than_100_mb"] if total > 100 << 20 else []
    return {"achieved": achieved, "tried": ["more_than_100_mb"], "total": total}
