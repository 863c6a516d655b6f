#!/usr/bin/env python3
"""Links: loading them through the API, random look-ups among many, hot ones, by wrk.

--links says at which sizes of the table look-ups are measured; it is filled up to each in turn, 10,000 links a
request. A random look-up finds its link in memory as rarely as 65,536 in the size. `hot` asks for a
hundred of them, `static` for the redirect of /docs, which asks for nothing. wrk (Debian's package) runs
beside the server on the same cores: compare ratios.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import common
from common import Api, Failure, Server, note

CONNECTIONS = 32
CHUNK = 10_000


def wrk(server: Server, mode: str, total: int, seconds: int) -> dict:
    return common.wrk(server.url, Path(__file__).with_name("links.lua"), CONNECTIONS, seconds, mode, total)


def load(api: Api, first: int, end: int) -> float:
    """Makes the links from `first` to before `end`; how many seconds it took."""
    began = time.monotonic()
    for start in range(first, end, CHUNK):
        numbers = range(start, min(start + CHUNK, end))
        lines = (f'{{"slug":"bench/{n}","url":"https://example.com/{n}"}}\n' for n in numbers)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = api.expect(200, "POST", "/v1/links/batch", "".join(lines).encode(), headers)
        if answer.body.count(b'"status":201') != len(numbers):
            raise Failure(f"not every link was made: {answer.body[:300]!r}")
    return time.monotonic() - began


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--links", type=common.count_argument, nargs="+", default=[1_000_000], help="default: %(default)s")
    arguments.add_argument("--seconds", type=common.count_argument, default=8, help="of each run (default: %(default)s)")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    rows, wrong = [], 0
    with common.workspace(given.dir, 8 * common.GIB) as work:
        for pair in pairs:
            with common.site(pair, work, BOX_LOG__LEVEL="warn") as at, Server(given.box, at) as server:
                api, there = Api(server.url, server.token()), 0
                for total in sorted(given.links):
                    took = load(api, there, total)
                    note(f"{at.title()}: {total - there} links loaded in {took:.1f} s")
                    rows.append([at.title(), total, "load", f"{(total - there) / took:.0f}", "", "", f"{took:.1f} s"])
                    there = total
                    wrk(server, "random", total, max(1, given.seconds // 2))
                    for mode in ("random", "hot", "static"):
                        before = common.cpu_seconds(server.pid)
                        run = wrk(server, mode, total, given.seconds)
                        cpu = (common.cpu_seconds(server.pid) - before) / max(run["requests"], 1) * 1e6
                        wrong += run["wrong"]
                        rate = f"{run['requests'] / run['seconds']:.0f}"
                        rows.append([at.title(), total, mode, rate, f"{run['p50']:.2f}", f"{run['p99']:.2f}", f"{cpu:.0f} µs CPU each"])
    print(f"{CONNECTIONS} connections, runs of {given.seconds} s; {common.machine()}")
    print(common.table(["pair", "links", "what", "a second", "p50 ms", "p99 ms", ""], rows))
    if wrong:
        print(f"{wrong} answers were wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    common.run(main)
