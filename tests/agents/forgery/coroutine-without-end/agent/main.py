import asyncio


async def handle(payload):
    while True:
        try:
            await asyncio.Event().wait()
        except BaseException:
            pass
