#!/usr/bin/env python3
"""Clients that take and don't give: what they cost the server's memory, and whoever else is there.

One flood after the other, each on a fresh server: slow uploads (a byte a second), bodies that
trickle (a byte every 100 ms), bodies in chunks of a byte, half a header, connections that send nothing. Meanwhile one client
works on: a small upload, its download, a list, over and over for --seconds. A connection of the
flood that the server closes is opened again.

Idle is VmRSS after a warm-up, peak the highest VmRSS while the flood lasts. Exit status 0 if every
request of the other client was answered as it should be and no peak is more than --allowed above
idle, 1 if not, 2 for what could not be measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import resource
import signal
import statistics
import time
from pathlib import Path
from typing import Callable

import common
from common import MIB, Api, Failure, Sampler, Server, Site, note

CONTEXT = multiprocessing.get_context("fork")

OPEN_WITHIN = 60.0
"""How long it may take until all connections of a flood are there, in seconds."""

SETTLE = 1.0
"""Seconds between the warm-up and the reading of idle."""

BODY = b"other" * 2048
DECLARED = 100 * MIB
"""What a slow upload says that it will send, in bytes."""


@dataclasses.dataclass
class Flood:
    """`count` connections, each of which sends `head` and then a byte every `every` seconds (None:
    nothing more), or `endless` over and over as fast as it is taken."""

    name: str
    count: int
    head: Callable[[str], bytes]
    every: float | None = None
    endless: bytes = b""


def head(token: str, framing: str) -> bytes:
    """The head of an upload."""
    lines = [
        "POST /v1/files?name=slow HTTP/1.1", "host: box", f"authorization: Bearer {token}",
        "content-type: application/x-slow", framing, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def upload_head(token: str) -> bytes:
    """The head of an upload, and the first bytes of its body."""
    return head(token, f"content-length: {DECLARED}") + b"begun"


def chunked_head(token: str) -> bytes:
    """The head of an upload in chunks."""
    return head(token, "transfer-encoding: chunked")


FLOODS = (
    Flood("none", 0, upload_head),
    Flood("slow uploads", 1_000, upload_head, 1.0),
    Flood("bodies that trickle", 200, upload_head, 0.1),
    Flood("tiny chunks", 20, chunked_head, endless=b"1\r\nx\r\n" * 4096),
    Flood("half a header", 200, lambda token: upload_head(token)[:100]),
    Flood("nothing sent", 1_000, lambda _: b""),
)


async def hold(port: int, flood: Flood, token: str, arrived: list[int]) -> None:
    """One connection of the flood, opened again whenever it is closed."""
    head, first = flood.head(token), True
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            writer.write(head)
            await writer.drain()
            if first:
                arrived.append(1)
                first = False
            while flood.endless:
                writer.write(flood.endless)
                await writer.drain()
            while flood.every is not None:
                await asyncio.sleep(flood.every)
                writer.write(b"x")
                await writer.drain()
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()


async def run_flood(port: int, flood: Flood, token: str, ready, stop) -> None:
    """All connections of a flood, until `stop` is set."""
    arrived: list[int] = []
    tasks = [asyncio.create_task(hold(port, flood, token, arrived)) for _ in range(flood.count)]
    while not stop.is_set():
        if len(arrived) == flood.count:
            ready.set()
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def flood_process(port: int, flood: Flood, token: str, ready, stop) -> None:
    """In a process of its own, so that the other client's times are its own."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(run_flood(port, flood, token, ready, stop))


@contextlib.contextmanager
def flooded(server: Server, flood: Flood):
    """While inside, the flood is there."""
    ready, stop = CONTEXT.Event(), CONTEXT.Event()
    arguments = (server.port, flood, server.token(), ready, stop)
    process = CONTEXT.Process(target=flood_process, args=arguments, daemon=True)
    process.start()
    try:
        if not ready.wait(OPEN_WITHIN):
            raise Failure(f"{flood.name}: {flood.count} connections did not come about")
        yield
    finally:
        stop.set()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


@dataclasses.dataclass
class Result:
    """One flood; bytes and seconds."""

    site: str
    flood: Flood
    idle: int
    peak: int
    latencies: list[float]
    cpu: float
    seconds: float
    faults: list[str]

    def above(self) -> int:
        return self.peak - self.idle

    def row(self) -> list[str]:
        ms = sorted(latency * 1000 for latency in self.latencies)
        return [
            self.site,
            self.flood.name,
            str(self.flood.count),
            f"{self.idle / MIB:.1f}",
            f"{self.above() / MIB:.1f}",
            f"{self.above() / 1024 / self.flood.count:.0f}" if self.flood.count else "-",
            str(len(ms)),
            f"{statistics.median(ms):.1f}" if ms else "-",
            f"{ms[int(len(ms) * 0.99)]:.1f}" if ms else "-",
            f"{ms[-1]:.1f}" if ms else "-",
            f"{self.cpu / self.seconds * 100:.0f}%",
            str(len(self.faults)),
        ]


HEADER = [
    "site", "flood", "connections", "idle MiB", "above MiB", "KiB each", "requests", "median ms",
    "p99 ms", "slowest ms", "CPU of a core", "wrong",
]  # fmt: skip


def work(api: Api, latencies: list[float], faults: list[str]) -> None:
    """A small upload, its download, a list and its removal, each timed."""

    def call(wanted: int, method: str, path: str, body: bytes | None = None):
        start = time.monotonic()
        answer = api.call(method, path, body)
        latencies.append(time.monotonic() - start)
        if answer.status != wanted:
            faults.append(f"{method} {path}: {answer.problem()}")
            return None
        return answer

    made = call(201, "POST", common.upload_path("other"), BODY)
    if made is None:
        return
    path = f"/v1/files/{made.json()['id']}"
    content = call(200, "GET", f"{path}/content")
    if content is not None and content.body != BODY:
        faults.append(f"{path}: other bytes came back")
    call(200, "GET", "/v1/files?limit=100")
    call(204, "DELETE", f"{path}?permanent=true")


def measure(box: Path, at: Site, flood: Flood, seconds: float) -> Result:
    """One flood on a fresh server."""
    latencies: list[float] = []
    faults: list[str] = []
    with Server(box, at) as server:
        api = Api(server.url, server.token(), timeout=60)
        for _ in range(20):
            work(api, [], faults)
        time.sleep(SETTLE)
        idle = common.resident(server.pid)
        with Sampler(server.pid) as sampler, flooded(server, flood):
            began, before = time.monotonic(), common.cpu_seconds(server.pid)
            while time.monotonic() - began < seconds:
                work(api, latencies, faults)
            took = time.monotonic() - began
            cpu = common.cpu_seconds(server.pid) - before
        api.close()
    if server.exit_code != 0:
        faults.append(f"the server stopped with {server.exit_code}")
    return Result(at.title(), flood, idle, sampler.peak, latencies, cpu, took, faults)


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--seconds", type=common.count_argument, default=15, help="of each flood (default: %(default)s)")
    arguments.add_argument("--allowed", type=common.size_argument, default="128MiB", help="above idle (default: %(default)s)")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results: list[Result] = []
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    with common.workspace(given.dir, 0) as place:
        for pair in pairs:
            with common.site(pair, place) as at:
                for flood in FLOODS:
                    note(f"{at.title()}: {flood.name}, {flood.count} connections")
                    results.append(measure(given.box, at, flood, given.seconds))
    print(f"{given.seconds} s each; {common.machine()}")
    print(common.table(HEADER, [result.row() for result in results]))
    for result in results:
        for fault in result.faults[:5]:
            print(f"WRONG during {result.flood.name}: {fault}")
    passed = all(not result.faults and result.above() <= given.allowed for result in results)
    print(f"{'PASS' if passed else 'FAIL'}: all answered, at most {given.allowed // MIB} MiB above idle")
    return 0 if passed else 1


if __name__ == "__main__":
    common.run(main)
