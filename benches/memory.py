#!/usr/bin/env python3
"""How much memory a large file costs the server: resident memory while one file of --size is
uploaded raw, uploaded as multipart/form-data, and downloaded, each on a fresh server.

Idle is VmRSS after a small upload and download; peak is the highest VmRSS seen every 50 ms, or
VmHWM where that is higher. PASS: no peak is more than 64 MiB above idle, and every checksum
agrees. Exit status 0 for PASS, 1 for FAIL, 2 for what could not be measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Callable

import common
from common import MIB, Api, Failure, Sampler, Server, Site, note

ALLOWED = 64 * MIB
"""The contract: bytes of resident memory above idle."""

SETTLE = 2.0
"""Seconds between the warm-up and the reading of idle."""

STORES = {"local": ("local",), "s3": ("pg-s3",), "both": common.PAIRS}


@dataclasses.dataclass
class Source:
    """The file that goes up."""

    path: Path
    size: int
    sha256: str


@dataclasses.dataclass
class Result:
    """One measurement; bytes and seconds."""

    store: str
    what: str
    idle: int
    peak: int
    exact: bool
    seconds: float
    cpu: float
    client_cpu: float
    size: int
    fault: str

    def above(self) -> int:
        return self.peak - self.idle

    def passed(self) -> bool:
        return not self.fault and self.above() <= ALLOWED

    def row(self) -> list[str]:
        return [
            self.store,
            self.what,
            f"{self.idle / MIB:.1f}",
            f"{self.peak / MIB:.1f}" + ("" if self.exact else "*"),
            f"{self.above() / MIB:.1f}",
            f"{self.seconds:.1f}",
            f"{self.cpu:.1f}",
            f"{self.client_cpu:.1f}",
            f"{self.size / 1e6 / self.seconds:.0f}",
            self.fault or "same",
            "PASS" if self.passed() else "FAIL",
        ]


HEADER = [
    "store", "what", "idle MiB", "peak MiB", "above MiB", "seconds", "server CPU s", "curl CPU s",
    "MB/s", "sha256", "",
]  # fmt: skip


def warm_up(api: Api) -> None:
    """A small upload, download and removal, so that what a server sets up once is there."""
    body = b"warm" * 4096
    made = api.expect(201, "POST", common.upload_path("warm-up"), body).json()
    if api.expect(200, "GET", f"/v1/files/{made['id']}/content").body != body:
        raise Failure("the warm-up came back changed")
    api.expect(204, "DELETE", f"/v1/files/{made['id']}?permanent=true")


Moved = tuple[float, float, str]
"""Seconds, curl's CPU seconds, and what was wrong with the checksum (empty: nothing)."""


def measure(box: Path, at: Site, what: str, size: int, move: Callable[[Server], Moved]) -> Result:
    """Runs `move` against a fresh server while its memory is watched."""
    with Server(box, at) as server:
        api = Api(server.url, server.token())
        warm_up(api)
        api.close()
        time.sleep(SETTLE)
        idle = common.resident(server.pid)
        before = common.cpu_seconds(server.pid)
        with Sampler(server.pid) as sampler:
            seconds, client_cpu, fault = move(server)
        cpu = common.cpu_seconds(server.pid) - before
    return Result(
        at.title(), what, idle, sampler.peak, sampler.exact, seconds, cpu, client_cpu, size, fault
    )


def uploaded(answer: Path, source: Source, transfer: common.Transfer) -> tuple[str, Moved]:
    """The id of what was stored, and what the service says of it against the source."""
    try:
        file = json.loads(answer.read_bytes())
        told = (file["size"], file["sha256"])
        identity = file["id"]
    except (ValueError, KeyError) as error:
        raise Failure(f"no File came back: {common.start_of(answer)}") from error
    fault = "" if told == (source.size, source.sha256) else f"differs: {told}"
    return identity, (transfer.seconds, transfer.cpu, fault)


def upload_raw(server: Server, source: Source, answer: Path, ids: list[str]) -> Moved:
    """POST of the bytes as they are, Content-Length known."""
    arguments = ["-X", "POST", "-T", str(source.path), "-H", f"Authorization: Bearer {server.token()}"]
    arguments += ["-H", "Content-Type: application/octet-stream"]
    transfer = common.curl([*arguments, server.url + common.upload_path("raw.bin")], 201, answer)
    identity, moved = uploaded(answer, source, transfer)
    ids.append(identity)
    return moved


def upload_multipart(server: Server, source: Source, answer: Path, ids: list[str]) -> Moved:
    """POST as multipart/form-data: the part `properties`, then the part `file`."""
    properties = answer.with_name("properties.json")
    properties.write_text('{"name": "multipart.bin"}', encoding="ascii")
    arguments = ["-H", f"Authorization: Bearer {server.token()}"]
    arguments += ["-F", f'properties=<"{properties}";type=application/json']
    arguments += ["-F", f'file=@"{source.path}";type=application/octet-stream']
    transfer = common.curl([*arguments, f"{server.url}/v1/files"], 201, answer)
    identity, moved = uploaded(answer, source, transfer)
    ids.append(identity)
    return moved


def download(server: Server, source: Source, identity: str) -> Moved:
    """GET of the content into a pipe whose other end hashes."""
    arguments = ["-H", f"Authorization: Bearer {server.token()}"]
    arguments.append(f"{server.url}/v1/files/{identity}/content")
    digest = hashlib.sha256()
    reading, writing = os.pipe()

    def read() -> None:
        with open(reading, "rb", buffering=0) as pipe:
            while block := pipe.read(MIB):
                digest.update(block)

    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MIB)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(writing, "wb", buffering=0) as pipe:
        transfer = common.curl(arguments, 200, pipe)
    reader.join()
    told = (transfer.received, digest.hexdigest())
    fault = "" if told == (source.size, source.sha256) else f"differs: {told}"
    return transfer.seconds, transfer.cpu, fault


def remove(box: Path, at: Site, ids: list[str]) -> None:
    """Deletes for good what was made, and sees that it is gone."""
    with Server(box, at) as server:
        api = Api(server.url, server.token())
        for identity in ids:
            api.expect(204, "DELETE", f"/v1/files/{identity}?permanent=true")
            api.expect(404, "GET", f"/v1/files/{identity}")
        api.close()
        ids.clear()


def measure_store(box: Path, pair: str, work: Path, source: Source) -> list[Result]:
    """The three measurements on one store."""
    answer = work / "answer.json"
    results = []
    with common.site(pair, work) as at:
        raw: list[str] = []
        multipart: list[str] = []
        note(f"{at.title()}: raw upload")
        results.append(
            measure(box, at, "raw upload", source.size, lambda s: upload_raw(s, source, answer, raw))
        )
        # Before the next upload, so that the disk holds the file twice rather than three times.
        remove(box, at, raw)
        note(f"{at.title()}: multipart upload")
        results.append(
            measure(
                box, at, "multipart upload", source.size,
                lambda s: upload_multipart(s, source, answer, multipart),
            )  # fmt: skip
        )
        note(f"{at.title()}: download")
        results.append(
            measure(box, at, "download", source.size, lambda s: download(s, source, multipart[0]))
        )
        remove(box, at, multipart)
    return results


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--size", type=common.size_argument, default="5GiB", help="default: %(default)s")
    arguments.add_argument("--store", choices=STORES, default="local", help="default: %(default)s")
    given = arguments.parse_args()
    results: list[Result] = []
    # The source, what is stored, and what was deleted but is not unlinked yet.
    with common.workspace(given.dir, 3 * given.size) as work:
        note(f"writing {given.size / common.GIB:.2f} GiB of random bytes")
        path = work / "source.bin"
        source = Source(path, given.size, common.random_file(path, given.size))
        for pair in STORES[given.store]:
            results += measure_store(given.box, pair, work, source)
    print(f"{given.size / common.GIB:.2f} GiB a file; {common.machine()}")
    print(common.table(HEADER, [result.row() for result in results]))
    if not all(result.exact for result in results):
        print("* VmHWM could not be reset here: a peak between two looks (50 ms) may be missed")
    passed = all(result.passed() for result in results)
    print(f"{'PASS' if passed else 'FAIL'}: at most {ALLOWED // MIB} MiB above idle")
    return 0 if passed else 1


if __name__ == "__main__":
    common.run(main)
