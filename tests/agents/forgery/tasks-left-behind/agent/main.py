import asyncio


async def refuse():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass


async def handle(payload):
    asyncio.get_running_loop()._kept = asyncio.create_task(refuse())
    await asyncio.sleep(0)
    return {"achieved": ["returned"]}
