def handle(payload):
    total, number = 0, 0
    try:
        while number < 40:
            number += 1
            with open(f"file{number}", "wb", buffering=0) as file:
                for _ in range(20):
                    total += file.write(bytes(1 << 20))
    except OSError:
        pass
    achieved = ["more_than_100_mb"] if total > 100 << 20 else []
    return {"achieved": achieved, "tried": ["more_than_100_mb"], "total": total}
