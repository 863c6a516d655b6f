#!/usr/bin/env python3
"""An origin for imports.py: waits, then answers a path with its size: /SIZE/NAME. Prints its port."""

from __future__ import annotations

import asyncio
import sys

DELAY = float(sys.argv[1])
PIECE = bytes(range(256)) * 256


class Origin(asyncio.Protocol):
    """One connection, one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.may_write = asyncio.Event()
        self.may_write.set()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            size = int(head.split(b" ", 2)[1].split(b"/")[1])
            asyncio.get_running_loop().call_later(DELAY, self.answer, size)

    def answer(self, size: int) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % size
        if size <= len(PIECE):
            self.transport.write(head + PIECE[:size])
        else:
            self.transport.write(head)
            asyncio.ensure_future(self.stream(size))

    async def stream(self, size: int) -> None:
        while size > 0 and not self.transport.is_closing():
            await self.may_write.wait()
            self.transport.write(PIECE[: min(size, len(PIECE))])
            size -= len(PIECE)
            await asyncio.sleep(0)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
