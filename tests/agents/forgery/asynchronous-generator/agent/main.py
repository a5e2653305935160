async def handle(payload):
    while True:
        yield payload
