#!/usr/bin/env python3
"""What an archive costs the server, and whether others can read it: one of a file of --size (above
4 GiB, so that sizes and offsets need ZIP64) and a small one, and one of --files (above 65,535, so
that the count does).

Each is fetched with curl on a fresh server. Python's zipfile, `unzip -t` and `7z t` must accept it
whole. Idle and peak are as in memory.py. PASS: no peak is more than 64 MiB above idle, and every
reader accepts. Exit status 0 for PASS, 1 for FAIL, 2 for what could not be measured.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import threading
import time
import zipfile
from pathlib import Path
from typing import Callable

import common
from common import MIB, Api, Failure, Sampler, Server, Site, note
from memory import ALLOWED, SETTLE, STORES, warm_up

COPIERS = 8
"""Connections that make the many files, all over one object."""

SEVEN = "7z" if shutil.which("7z") else "7zz"
"""As one Debian calls it, or another."""

READERS = {"unzip": ("unzip", "-tqq"), "7z": (SEVEN, "t", "-bso0", "-bsp0")}


@dataclasses.dataclass
class Result:
    """One archive; bytes and seconds."""

    store: str
    what: str
    idle: int
    peak: int
    size: int
    seconds: float
    cpu: float
    fault: str

    def passed(self) -> bool:
        return not self.fault and self.peak - self.idle <= ALLOWED

    def row(self) -> list[str]:
        return [
            self.store,
            self.what,
            f"{self.idle / MIB:.1f}",
            f"{(self.peak - self.idle) / MIB:.1f}",
            f"{self.size / MIB:.0f}",
            f"{self.seconds:.1f}",
            f"{self.cpu:.1f}",
            self.fault or "accepted",
            "PASS" if self.passed() else "FAIL",
        ]


HEADER = ["store", "what", "idle MiB", "above MiB", "MiB", "seconds", "server CPU s", "readers", ""]


def copies(server: Server, identity: str, count: int) -> None:
    """Makes `count` files over the object of one."""
    failures: list[Exception] = []

    def copy(share: int) -> None:
        api = Api(server.url, server.token())
        try:
            for _ in range(share):
                api.expect(201, "POST", f"/v1/files/{identity}/copy", b"")
        except Exception as failure:  # pylint: disable=broad-except
            failures.append(failure)
        finally:
            api.close()

    shares = [count // COPIERS + (place < count % COPIERS) for place in range(COPIERS)]
    threads = [threading.Thread(target=copy, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Failure(f"a copy failed: {failures[0]}")


def read_by(path: Path, count: int) -> str:
    """What is wrong with an archive of `count` files, by each reader; empty: nothing."""
    faults = []
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) != count:
            faults.append(f"zipfile sees {len(archive.infolist())} files")
        broken = archive.testzip()
        if broken is not None:
            faults.append(f"zipfile: {broken} is broken")
    for name, command in READERS.items():
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            faults.append(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-200:]}")
    return "; ".join(faults)


def measure(
    box: Path, at: Site, what: str, count: int, work: Path, fill: Callable[[Server], None]
) -> Result:
    """Fills a site, and fetches all of it as one archive from a fresh server."""
    with Server(box, at) as server:
        fill(server)
    path = work / "archive.zip"
    with Server(box, at) as server:
        api = Api(server.url, server.token())
        warm_up(api)
        api.close()
        time.sleep(SETTLE)
        idle = common.resident(server.pid)
        before = common.cpu_seconds(server.pid)
        arguments = ["-X", "POST", "-H", f"Authorization: Bearer {server.token()}"]
        arguments += ["-H", "Content-Type: application/json", "-d", json.dumps({"filter": {"prefix": "of/"}})]
        with Sampler(server.pid) as sampler:
            transfer = common.curl([*arguments, f"{server.url}/v1/files/archive"], 200, path)
        cpu = common.cpu_seconds(server.pid) - before
    note(f"{at.title()}, {what}: reading")
    fault = read_by(path, count)
    size = path.stat().st_size
    path.unlink()
    return Result(at.title(), what, idle, sampler.peak, size, transfer.seconds, cpu, fault)


def measure_store(box: Path, pair: str, work: Path, size: int, files: int) -> list[Result]:
    """Both archives on one store."""

    def large(server: Server) -> None:
        source = work / "source.bin"
        common.random_file(source, size)
        token = f"Authorization: Bearer {server.token()}"
        arguments = ["-X", "POST", "-T", str(source), "-H", token]
        url = server.url + common.upload_path("of/large.bin")
        common.curl([*arguments, url], 201, work / "answer.json")
        source.unlink()
        api = Api(server.url, server.token())
        # By name behind the large one: at an offset that needs ZIP64.
        api.expect(201, "POST", common.upload_path("of/small.txt"), b"small")
        api.close()

    def many(server: Server) -> None:
        api = Api(server.url, server.token())
        made = api.expect(201, "POST", common.upload_path("of/same.txt"), b"x" * 64).json()
        api.close()
        copies(server, made["id"], files - 1)

    settings = {"BOX_ARCHIVE__MAX_FILES": "1000000"}
    results = []
    for what, count, fill in (("a large file", 2, large), (f"{files:,} files", files, many)):
        note(f"{pair}: {what}")
        with common.site(pair, work, **settings) as at:
            results.append(measure(box, at, what, count, work, fill))
    return results


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--size", type=common.size_argument, default="4300MiB", help="default: %(default)s")
    arguments.add_argument("--files", type=common.count_argument, default=70_000, help="default: %(default)s")
    arguments.add_argument("--store", choices=STORES, default="local", help="default: %(default)s")
    given = arguments.parse_args()
    for command in READERS.values():
        if shutil.which(command[0]) is None:
            raise Failure(f"{command[0]} is missing: Debian's unzip and 7zip")
    results: list[Result] = []
    with common.workspace(given.dir, 3 * given.size) as work:
        for pair in STORES[given.store]:
            results += measure_store(given.box, pair, work, given.size, given.files)
    print(common.machine())
    print(common.table(HEADER, [result.row() for result in results]))
    passed = all(result.passed() for result in results)
    print(f"{'PASS' if passed else 'FAIL'}: at most {ALLOWED // MIB} MiB above idle")
    return 0 if passed else 1


if __name__ == "__main__":
    common.run(main)
