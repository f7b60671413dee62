#!/usr/bin/env python3
"""Echoes WebSocket messages on a port of loopback, and prints how each connection was closed."""
import asyncio
import sys

import websockets


async def converse(socket):
    try:
        async for message in socket:
            if message == "close with 4002":
                await socket.close(4002, "as asked")
            elif message == "ping me":
                await (await socket.ping(b"still there?"))
                await socket.send("was there")
            else:
                await socket.send(message)
    except websockets.ConnectionClosed:
        pass
    print("closed", socket.close_code, socket.close_reason, flush=True)


async def main(port):
    async with websockets.serve(converse, "127.0.0.1", port, max_size=4 << 20):
        await asyncio.Future()


asyncio.run(main(int(sys.argv[1])))
