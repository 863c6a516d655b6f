#!/usr/bin/env python3
"""What imports.py is measured against: the usual way to do it in Python. An aiohttp client with 100
connections; each answer becomes a file that is flushed to the disk, and a row in PostgreSQL with its SHA-256.

    imports_aiohttp.py DATABASE_URL DIRECTORY < URLS

Prints the seconds that it took. Needs aiohttp and asyncpg.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
import uuid
from pathlib import Path

import aiohttp
import asyncpg

CONNECTIONS = 100


def write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


async def main() -> None:
    database, directory = sys.argv[1], Path(sys.argv[2])
    urls = sys.stdin.read().split()
    pool = await asyncpg.create_pool(database, min_size=20, max_size=20)
    await pool.execute(
        "CREATE TABLE IF NOT EXISTS reference_files "
        "(id UUID PRIMARY KEY, url TEXT, path TEXT, size BIGINT, sha256 BYTEA, created_at TIMESTAMPTZ DEFAULT now())"
    )
    waiting = asyncio.Semaphore(CONNECTIONS)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def fetch(url: str) -> None:
            async with waiting, session.get(url) as response:
                response.raise_for_status()
                content = await response.read()
            identity = uuid.uuid4()
            path = directory / str(identity)
            await asyncio.to_thread(write, path, content)
            await pool.execute(
                "INSERT INTO reference_files (id, url, path, size, sha256) VALUES ($1, $2, $3, $4, $5)",
                identity,
                url,
                str(path),
                len(content),
                hashlib.sha256(content).digest(),
            )

        began = time.perf_counter()
        await asyncio.gather(*(fetch(url) for url in urls))
        print(f"{time.perf_counter() - began:.3f}")
    await pool.close()


asyncio.run(main())
