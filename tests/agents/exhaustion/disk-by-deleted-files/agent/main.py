import os
import time


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
    time.sleep(1)  # the disk is as full as it gets, and seen to be
    achieved = ["more_than_100_mb"] if total > 100 << 20 else []
    return {"achieved": achieved, "tried": ["more_than_100_mb"], "total": total}
