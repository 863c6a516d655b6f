#!/usr/bin/env python3
"""Resumable uploads (tus): --size in PATCHes of --piece beside one raw upload of the same bytes, the memory
that one PATCH of --size takes, and HEAD while --open uploads are in progress.

curl sends both, the pieces over one connection. wrk (Debian's package) asks for HEAD without a pause, over 1, 4 and
32 connections; then HEAD is asked for --rate times a second, whatever the answers take. All run beside the
server on the same cores: compare ratios. Exit status 1 where a PATCH took more than 64 MiB above idle, an
answer was wrong, or a checksum differs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
import statistics
import threading
import time
import urllib.parse
from pathlib import Path

import common
import memory
from common import MIB, Api, Server, Site, note

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = "application/offset+octet-stream"
CONNECTIONS = (1, 4, 32)
PACED = 4
"""Connections of the requests that come at a rate."""


@dataclasses.dataclass
class Run:
    """One upload of the whole; seconds."""

    seconds: float
    cpu: float
    client_cpu: float


def begin(api: Api, size: int) -> str:
    """A new upload's path."""
    answer = api.expect(201, "POST", "/v1/uploads/tus", b"", {**TUS, "Upload-Length": str(size)})
    return answer.headers["location"]


def ended(api: Api, path: str, source: memory.Source) -> str:
    """What is wrong with the file that an upload became; empty: nothing."""
    head = api.expect(200, "HEAD", path, None, TUS)
    file = api.expect(200, "GET", f"/v1/files/{head.headers['box-file-id']}").json()
    told = (file["size"], file["sha256"])
    return "" if told == (source.size, source.sha256) else f"differs: {told}"


def split(source: memory.Source, piece: int, directory: Path) -> list[Path]:
    """The source in files of `piece` bytes."""
    directory.mkdir()
    pieces = []
    with source.path.open("rb") as whole:
        while block := whole.read(piece):
            pieces.append(directory / f"{len(pieces):06}")
            pieces[-1].write_bytes(block)
    return pieces


def patches(server: Server, token: str, path: str, pieces: list[Path], work: Path) -> list[str]:
    """curl's arguments for all pieces, one after the other over one connection."""
    config, at, sections = work / "curl.conf", 0, []
    for piece in pieces:
        fields = {**TUS, "Authorization": f"Bearer {token}", "Content-Type": BYTES, "Upload-Offset": str(at)}
        lines = ['request = "PATCH"', f'upload-file = "{piece}"', f'url = "{server.url}{path}"', "fail", 'header = "Expect:"']
        lines += [f'header = "{name}: {value}"' for name, value in fields.items()]
        sections.append("\n".join(lines))
        at += piece.stat().st_size
    config.write_text("\nnext\n".join(sections) + "\n", encoding="ascii")
    return ["--fail-early", "-K", str(config)]


def timed(server: Server, arguments: list[str], expect: int, answer: Path) -> Run:
    # What was written before is nobody's business any more.
    os.sync()
    before, began = common.cpu_seconds(server.pid), time.monotonic()
    transfer = common.curl(arguments, expect, answer)
    seconds = time.monotonic() - began
    return Run(seconds, common.cpu_seconds(server.pid) - before, transfer.cpu)


def beside_raw(given, at: Site, source: memory.Source, pieces: list[Path], work: Path) -> tuple[list[list], bool]:
    """Raw and tus in turn; the table's rows, and whether every checksum agreed."""
    runs: dict[str, list[Run]] = {"raw": [], "tus": []}
    sound = True
    answer = work / "answer.json"
    with Server(given.box, at) as server:
        token = server.token("12h")
        api = Api(server.url, token)
        memory.warm_up(api)
        for number in range(given.rounds):
            note(f"{at.title()}: round {number + 1} of {given.rounds}")
            arguments = ["-X", "POST", "-T", str(source.path), "-H", f"Authorization: Bearer {token}"]
            raw = timed(server, [*arguments, server.url + common.upload_path("raw.bin")], 201, answer)
            sound &= json.loads(answer.read_bytes())["sha256"] == source.sha256
            runs["raw"].append(raw)
            path = begin(api, source.size)
            runs["tus"].append(timed(server, patches(server, token, path, pieces, work), 204, answer))
            sound &= ended(api, path, source) == ""
        api.close()
    seconds = {what: statistics.median(run.seconds for run in each) for what, each in runs.items()}
    return [
        [
            at.title(), what, f"{source.size / 1e6 / seconds[what]:.0f}", f"{seconds['raw'] / seconds[what]:.2f}",
            f"{statistics.median(run.cpu for run in each):.2f}",
            f"{statistics.median(run.client_cpu for run in each):.2f}",
        ]
        for what, each in runs.items()
    ], sound  # fmt: skip


def one_patch(server: Server, source: memory.Source, answer: Path) -> memory.Moved:
    token = server.token()
    api = Api(server.url, token)
    path = begin(api, source.size)
    arguments = ["-X", "PATCH", "-T", str(source.path), "-H", f"Authorization: Bearer {token}"]
    arguments += ["-H", f"Content-Type: {BYTES}", "-H", "Tus-Resumable: 1.0.0", "-H", "Upload-Offset: 0"]
    transfer = common.curl([*arguments, server.url + path], 204, answer)
    fault = ended(api, path, source)
    api.close()
    return transfer.seconds, transfer.cpu, fault


class Pacer(threading.Thread):
    """HEAD over one connection, at random times of `rate` a second. An answer's time runs from when its request
    was due, so that one that is slow counts for those that it keeps waiting."""

    def __init__(self, url: str, token: str, ids: list[str], rate: float, seconds: float) -> None:
        super().__init__()
        at = urllib.parse.urlsplit(url)
        self.address, self.host = (at.hostname, at.port), at.netloc
        self.token, self.ids, self.rate, self.seconds = token, ids, rate, seconds
        self.times: list[float] = []
        self.wrong = 0

    def run(self) -> None:
        with socket.create_connection(self.address, 10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            due = time.monotonic()
            end = due + self.seconds
            while (due := due + random.expovariate(self.rate)) < end:
                head = f"HEAD /v1/uploads/tus/{random.choice(self.ids)} HTTP/1.1\r\nHost: {self.host}\r\n"
                head += f"Authorization: Bearer {self.token}\r\nTus-Resumable: 1.0.0\r\n\r\n"
                request = head.encode("ascii")
                time.sleep(max(0.0, due - time.monotonic()))
                connection.sendall(request)
                answer = b""
                while not answer.endswith(b"\r\n\r\n"):
                    block = connection.recv(4096)
                    if not block:
                        self.wrong += 1
                        return
                    answer += block
                self.times.append((time.monotonic() - due) * 1e3)
                self.wrong += not answer.startswith(b"HTTP/1.1 200 ")


def paced(server: Server, token: str, ids: list[str], rate: int, seconds: int) -> dict:
    """As wrk tells it, of requests that come at a rate."""
    pacers = [Pacer(server.url, token, ids, rate / PACED, seconds) for _ in range(PACED)]
    for pacer in pacers:
        pacer.start()
    for pacer in pacers:
        pacer.join()
    times = sorted(each for pacer in pacers for each in pacer.times)
    if not times:
        raise common.Failure("no HEAD was answered")
    return {
        "requests": len(times), "seconds": seconds, "wrong": sum(pacer.wrong for pacer in pacers),
        "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100],
    }  # fmt: skip


def heads(given, at: Site, work: Path) -> tuple[list[list], int]:
    """The table's rows, and how many answers were wrong."""
    listed = work / f"{at.pair}.ids"
    rows, wrong = [], 0
    with Server(given.box, at) as server:
        token = server.token()
        api = Api(server.url, token)
        note(f"{at.title()}: {given.open} uploads begin")
        ids = [begin(api, MIB).rpartition("/")[2] for _ in range(given.open)]
        api.close()
        listed.write_text("".join(f"{each}\n" for each in ids), encoding="ascii")
        script = Path(__file__).with_name("uploads.lua")
        asked = []
        for number in CONNECTIONS:
            note(f"{at.title()}: HEAD, {number} at a time")
            threads = min(2, number)
            said = common.wrk(server.url, script, number, given.seconds, token, listed, threads=threads)
            asked.append((f"{number} at a time", said))
        note(f"{at.title()}: HEAD, {given.rate} a second")
        asked.append((f"{given.rate} a second", paced(server, token, ids, given.rate, given.seconds)))
    for how, said in asked:
        rate = said["requests"] / said["seconds"]
        rows.append([at.title(), given.open, how, f"{rate:.0f}", f"{said['p50']:.2f}", f"{said['p99']:.2f}", said["wrong"]])
        wrong += said["wrong"]
    return rows, wrong


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--size", type=common.size_argument, default="1GiB", help="default: %(default)s")
    arguments.add_argument("--piece", type=common.size_argument, default="8MiB", help="of a PATCH (default: %(default)s)")
    arguments.add_argument("--rounds", type=common.count_argument, default=3, help="default: %(default)s")
    arguments.add_argument("--open", type=common.count_argument, default=10_000, help="uploads (default: %(default)s)")
    arguments.add_argument("--seconds", type=common.count_argument, default=8, help="of HEAD, each way (default: %(default)s)")
    arguments.add_argument("--rate", type=common.count_argument, default=500, help="of HEAD, a second (default: %(default)s)")
    arguments.add_argument("--only", choices=("rates", "memory", "heads"), action="append", help="not all of it")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    wanted = given.only or ("rates", "memory", "heads")
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    rates, memories, asked = [], [], []
    sound, wrong = True, 0
    # The source twice, and what is stored.
    with common.workspace(given.dir, (3 + 2 * given.rounds) * given.size) as work:
        path = work / "source.bin"
        source = memory.Source(path, given.size, common.random_file(path, given.size))
        pieces = split(source, given.piece, work / "pieces")
        answer = work / "answer.json"
        for pair in pairs:
            if "rates" in wanted:
                with common.site(pair, work, BOX_LOG__LEVEL="warn") as at:
                    rows, agreed = beside_raw(given, at, source, pieces, work)
                    rates += rows
                    sound &= agreed
            if "memory" in wanted:
                with common.site(pair, work, BOX_LOG__LEVEL="warn") as at:
                    note(f"{at.title()}: one PATCH")
                    move = lambda server: one_patch(server, source, answer)  # noqa: E731
                    memories.append(memory.measure(given.box, at, "one PATCH", source.size, move))
            if "heads" in wanted:
                with common.site(pair, work, BOX_LOG__LEVEL="warn") as at:
                    rows, refused = heads(given, at, work)
                    asked += rows
                    wrong += refused
    print(f"{given.size / common.GIB:.2f} GiB, medians of {given.rounds} rounds; {common.machine()}")
    if rates:
        header = ["pair", "what", "MB/s", "of raw", "server CPU s", "curl CPU s"]
        print(f"PATCHes of {given.piece / MIB:.0f} MiB\n" + common.table(header, rates))
    if memories:
        print(common.table(memory.HEADER, [result.row() for result in memories]))
    if asked:
        print(common.table(["pair", "uploads open", "HEAD", "HEAD/s", "p50 ms", "p99 ms", "wrong"], asked))
    passed = sound and wrong == 0 and all(result.passed() for result in memories)
    return 0 if passed else 1


if __name__ == "__main__":
    common.run(main)
