#!/usr/bin/env python3
"""Talks to websocket_server.py through whatever is at the given URL; ends with 0 if all is well."""
import asyncio
import os
import ssl
import sys

import websockets

PATIENCE = 20


def connect(url):
    tls = None
    if url.startswith("wss:"):
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return websockets.connect(url, ssl=tls, max_size=4 << 20, open_timeout=PATIENCE)


async def echoes(socket, message):
    await socket.send(message)
    whole = message if isinstance(message, (str, bytes)) else "".join(message)
    assert await asyncio.wait_for(socket.recv(), PATIENCE) == whole


async def converse(url):
    async with connect(url) as socket:
        for message in ["hello", "", "grüße", b"\x00\x81\xff", b""]:
            await echoes(socket, message)
        await echoes(socket, ["one ", "message ", "in parts"])
        # What does not compress, and what does.
        await echoes(socket, os.urandom(1 << 20))
        await echoes(socket, "x" * (1 << 20))
        await asyncio.wait_for(await socket.ping(b"payload"), PATIENCE)
        await socket.send("ping me")
        assert await asyncio.wait_for(socket.recv(), PATIENCE) == "was there"
        await socket.close(4001, "enough")
    async with connect(url) as socket:
        await socket.send("close with 4002")
        try:
            await asyncio.wait_for(socket.recv(), PATIENCE)
            raise AssertionError("a message instead of the end")
        except websockets.ConnectionClosedError as closed:
            assert (closed.code, closed.reason) == (4002, "as asked"), closed


async def one_of_many(url, number):
    async with connect(url) as socket:
        for turn in range(10):
            await echoes(socket, f"{number} says {turn}")


async def main(url):
    await converse(url)
    await asyncio.gather(*(one_of_many(url, number) for number in range(32)))


asyncio.run(main(sys.argv[1]))
