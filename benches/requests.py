#!/usr/bin/env python3
"""Requests a second: small uploads, downloads, properties, lists and deletes, by wrk.

One tenant, files of --size, with token, row, SHA-256 and fsync on. wrk (Debian's package) runs beside
the server on the same cores: compare ratios and the server's CPU seconds a request.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import common
from common import Api, Failure, Server, note

THREADS = 2
PHASES = (("upload", 32), ("download", 64), ("json", 64), ("list", 64), ("delete", 32))


def wrk(server: Server, mode: str, connections: int, seconds: int, token: str, ids: Path, size: int) -> dict:
    script = Path(__file__).with_name("requests.lua")
    return common.wrk(server.url, script, connections, seconds, mode, token, ids, size, THREADS, threads=THREADS)


def write_ids(server: Server, token: str, ids: Path, most: int) -> int:
    """The ids of the newest files, a line each; how many."""
    found = []
    for page in Api(server.url, token).pages(limit=1000):
        found += [item["id"] for item in page["items"]]
        if len(found) >= most:
            break
    ids.write_text("\n".join(found[:most]) + "\n", encoding="ascii")
    return min(len(found), most)


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--size", type=common.size_argument, default="10KiB", help="default: %(default)s")
    arguments.add_argument("--seconds", type=common.count_argument, default=8, help="of each run (default: %(default)s)")
    arguments.add_argument("--rounds", type=common.count_argument, default=3, help="default: %(default)s")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    arguments.add_argument("--only", choices=[mode for mode, _ in PHASES], help="one kind of request")
    given = arguments.parse_args()
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    rows, wrong = [], 0
    with common.workspace(given.dir, 20 * common.GIB) as work:
        for pair in pairs:
            with common.site(pair, work, BOX_LOG__LEVEL="warn") as at, Server(given.box, at) as server:
                token, ids = server.token(), work / f"{pair}.ids"
                results: dict[str, list[dict]] = {}
                # Deletes come last: on ext4 they slow the creation of files for minutes.
                order = [phase for phase in PHASES if phase[0] != "delete"] * given.rounds + [PHASES[-1]]
                for mode, connections in order:
                    if given.only and mode not in ("upload", given.only):
                        continue
                    if mode != "upload":
                        write_ids(server, token, ids, 50_000)
                    os.sync()
                    note(f"{at.title()}: {mode}")
                    before = common.cpu_seconds(server.pid)
                    # Deletes may be faster than the uploads that they live on.
                    seconds = given.seconds if mode != "delete" else max(1, given.seconds // 3)
                    result = wrk(server, mode, connections, seconds, token, ids, given.size)
                    result["cpu"] = common.cpu_seconds(server.pid) - before
                    if result["ran_out"]:
                        raise Failure("every file was deleted before the time was over: ask for more --rounds")
                    wrong += result["refused"] + result["broken"]
                    results.setdefault(mode, []).append(result)
                for mode, connections in PHASES:
                    if mode not in results:
                        continue
                    runs = results[mode]
                    rate = statistics.median(run["requests"] / run["seconds"] for run in runs)
                    cpu = statistics.median(run["cpu"] / max(run["requests"], 1) * 1e6 for run in runs)
                    rows.append(
                        [
                            at.title(), mode, connections, f"{rate:.0f}",
                            f"{statistics.median(run['p50'] for run in runs):.2f}",
                            f"{statistics.median(run['p99'] for run in runs):.2f}",
                            f"{cpu:.0f}", sum(run["refused"] + run["broken"] for run in runs),
                        ]
                    )
    print(f"files of {given.size} bytes, medians of {given.rounds} runs of {given.seconds} s; {common.machine()}")
    header = ["pair", "what", "connections", "requests/s", "p50 ms", "p99 ms", "µs CPU a request", "wrong"]
    print(common.table(header, rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    common.run(main)
