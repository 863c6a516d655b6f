#!/usr/bin/env python3
"""Small files: how many uploads and downloads a second, at which latency, at what CPU cost.

--clients processes, each with one keep-alive connection (http.client), upload --files files of
--size, each with bytes of its own, then download every one and compare it. Latency runs from
before the request is sent until the whole answer is read. Exit status 0 if every answer was
right, 1 if not.

The clients are Python and share the machine with the server: their CPU seconds stand beside the
server's. The server's CPU seconds a request are what compares between machines and versions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import math
import multiprocessing
import os
import queue
import secrets
import signal
import statistics
import threading
import time
from typing import Callable, Sequence

import common
from common import Api, Failure, Server, note

PHASE_WITHIN = 900.0
"""How long a phase may take, in seconds."""

CONTEXT = multiprocessing.get_context("fork")


@dataclasses.dataclass
class Share:
    """What one client did. `start` and `end` by the monotonic clock, latencies in seconds,
    `cpu` its own seconds; `made` holds what is needed to fetch: (index, id)."""

    start: float = 0.0
    end: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = dataclasses.field(default_factory=list)
    made: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    connections: int = 0


@dataclasses.dataclass
class Load:
    """What is moved: `files` files of `size` bytes, told apart by their index."""

    seed: bytes
    size: int

    def body(self, index: int) -> bytes:
        block = hashlib.sha256(self.seed + index.to_bytes(8, "big")).digest()
        return (block * (self.size // len(block) + 1))[: self.size]


Step = Callable[[Api, Load, Share, tuple[int, str]], None]


def upload(api: Api, load: Load, share: Share, item: tuple[int, str]) -> None:
    """One raw upload; only the exchange is timed, not the making or checking of bytes."""
    index, _ = item
    body = load.body(index)
    headers = {"Content-Type": "application/octet-stream"}
    start = time.monotonic()
    answer = api.call("POST", f"/v1/files?name=small-{index}", body, headers)
    share.latencies.append(time.monotonic() - start)
    if answer.status != 201:
        share.faults.append(f"upload {index}: {answer.problem()}")
        return
    file = json.loads(answer.body)
    if file["sha256"] != hashlib.sha256(body).hexdigest():
        share.faults.append(f"upload {index}: the service reports SHA-256 {file['sha256']}")
    share.made.append((index, file["id"]))


def download(api: Api, load: Load, share: Share, item: tuple[int, str]) -> None:
    """One download, compared byte by byte."""
    index, identity = item
    start = time.monotonic()
    answer = api.call("GET", f"/v1/files/{identity}/content")
    share.latencies.append(time.monotonic() - start)
    if answer.status != 200:
        share.faults.append(f"download {index}: {answer.problem()}")
    elif answer.body != load.body(index):
        share.faults.append(f"download {index}: other bytes came back")


def delete(api: Api, _: Load, share: Share, item: tuple[int, str]) -> None:
    """One removal for good."""
    index, identity = item
    start = time.monotonic()
    answer = api.call("DELETE", f"/v1/files/{identity}?permanent=true")
    share.latencies.append(time.monotonic() - start)
    if answer.status != 204:
        share.faults.append(f"delete {index}: {answer.problem()}")


def client(url: str, token: str, load: Load, step: Step, items: Sequence[tuple[int, str]], start, results) -> None:
    """One client process: connects, waits for the others, works through its items."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    share = Share()
    api = Api(url, token, timeout=60)
    try:
        api.expect(200, "GET", "/v1/files?limit=1")
        start.wait(60)
        share.start, before = time.monotonic(), time.process_time()
        for item in items:
            step(api, load, share, item)
        share.end, share.cpu = time.monotonic(), time.process_time() - before
    except (Failure, OSError, http.client.HTTPException, ValueError, KeyError, threading.BrokenBarrierError) as error:
        start.abort()
        share.faults.append(f"a client gave up: {error!r}")
    share.connections = api.connections
    results.put(share)


def phase(server: Server, clients: int, load: Load, step: Step, items: list[tuple[int, str]]) -> list[Share]:
    """Spreads the items over client processes and gathers what they did."""
    token = server.token()
    start, results = CONTEXT.Barrier(clients), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(
            target=client,
            args=(server.url, token, load, step, items[number::clients], start, results),
            daemon=True,
        )
        for number in range(clients)
    ]
    try:
        for process in processes:
            process.start()
        until = time.monotonic() + PHASE_WITHIN
        shares = []
        while len(shares) < clients:
            try:
                shares.append(results.get(timeout=1))
            except queue.Empty:
                if time.monotonic() > until or not any(process.is_alive() for process in processes):
                    raise Failure(f"{clients - len(shares)} clients brought no result") from None
        return shares
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join(10)


@dataclasses.dataclass
class Result:
    """One phase of one round."""

    pair: str
    what: str
    number: int
    rate: float
    p50: float
    p99: float
    server_cpu: float
    client_cpu: float
    requests: int

    def row(self, label: str) -> list[str]:
        return [
            self.pair,
            self.what,
            label,
            f"{self.rate:.0f}",
            f"{self.p50 * 1e3:.2f}",
            f"{self.p99 * 1e3:.2f}",
            f"{self.server_cpu:.2f}",
            f"{self.server_cpu / max(self.requests, 1) * 1e6:.0f}",
            f"{self.client_cpu:.2f}",
        ]


HEADER = [
    "pair", "what", "round", "requests/s", "p50 ms", "p99 ms", "server CPU s", "µs CPU a request", "clients CPU s",
]  # fmt: skip


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    if not sorted_values:
        return float("nan")
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]


def summed(pair: str, what: str, number: int, shares: list[Share], server_cpu: float) -> Result:
    """One line of what all clients did, from the first one's start to the last one's end."""
    latencies = sorted(latency for share in shares for latency in share.latencies)
    running = [share for share in shares if share.end]
    seconds = max((s.end for s in running), default=0.0) - min((s.start for s in running), default=0.0)
    return Result(
        pair,
        what,
        number,
        len(latencies) / seconds if seconds > 0 else float("nan"),
        percentile(latencies, 0.50),
        percentile(latencies, 0.99),
        server_cpu,
        sum(share.cpu for share in shares),
        len(latencies),
    )


def measure_pair(given, pair: str, work) -> tuple[list[Result], list[str]]:
    """All rounds on one pair, and what went wrong. Deletes come last of all: on ext4 they slow
    the creation of files for minutes."""
    results: list[Result] = []
    faults: list[str] = []

    def timed(server: Server, load: Load, step: Step, number: int, items: list) -> list[tuple[int, str]]:
        before = common.cpu_seconds(server.pid)
        shares = phase(server, given.clients, load, step, items)
        cpu = common.cpu_seconds(server.pid) - before
        results.append(summed(at.title(), step.__name__, number, shares, cpu))
        faults.extend(f"{at.title()}, round {number}: {fault}" for s in shares for fault in s.faults)
        again = sum(share.connections for share in shares) - given.clients
        if again > 0:
            note(f"{again} connections were closed by the server and opened again")
        return sorted(made for share in shares for made in share.made)

    with common.site(pair, work) as at, Server(given.box, at) as server:
        warm = Load(secrets.token_bytes(16), given.size)
        items = [(index, "") for index in range(given.files)]
        everything = [
            made
            for share in phase(server, given.clients, warm, upload, items[: 10 * given.clients])
            for made in share.made
        ]
        for number in range(1, given.rounds + 1):
            os.sync()
            load = Load(secrets.token_bytes(16), given.size)
            note(f"{at.title()}: round {number}")
            made = timed(server, load, upload, number, items)
            timed(server, load, download, number, made)
            everything += made
        timed(server, warm, delete, 1, everything)
    return results, faults


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--files", type=common.count_argument, default=2000, help="default: %(default)s")
    arguments.add_argument("--clients", type=common.count_argument, default=8, help="default: %(default)s")
    arguments.add_argument("--size", type=common.size_argument, default="10KiB", help="default: %(default)s")
    arguments.add_argument("--rounds", type=common.count_argument, default=3, help="default: %(default)s")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    results: list[Result] = []
    faults: list[str] = []
    with common.workspace(given.dir, 2 * given.size * given.files * given.rounds) as work:
        for pair in pairs:
            found, wrong = measure_pair(given, pair, work)
            results += found
            faults += wrong
    print(
        f"{given.files} files of {given.size} bytes, {given.clients} clients, "
        f"{given.rounds} rounds; {common.machine()}"
    )
    print(common.table(HEADER, rows(results)))
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def rows(results: list[Result]) -> list[list[str]]:
    """A line a round, and the median of each column below them."""
    lines = []
    for pair, what in dict.fromkeys((result.pair, result.what) for result in results):
        group = [result for result in results if (result.pair, result.what) == (pair, what)]
        lines += [result.row(str(result.number)) for result in group]
        if len(group) > 1:
            figures = ("rate", "p50", "p99", "server_cpu", "client_cpu")
            median = {name: statistics.median(getattr(result, name) for result in group) for name in figures}
            lines.append(dataclasses.replace(group[0], **median).row("median"))
    return lines


if __name__ == "__main__":
    common.run(main)
