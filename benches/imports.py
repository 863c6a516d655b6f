#!/usr/bin/env python3
"""How fast lists of URLs are taken in and fetched, and what that costs in memory.

An origin on loopback waits --delay (50 ms) before each answer. Measured: --urls (1,000) URLs of 10 KiB
wholly stored (row, SHA-256, fsync) at a concurrency of 100, beside the floor that the delay sets, beside
`curl --parallel --parallel-max 100` into plain files, and, with --python, beside an aiohttp client that
writes the same files and PostgreSQL rows (imports_aiohttp.py; that interpreter needs aiohttp and
asyncpg, and scripts/with-servers has to be around it). Then: how long 100,000 items take until they
are accepted and queued. Then: the peak of VmRSS above idle while --large (4) items of 1 GiB come among
the small ones.

FAIL: more than 1.3 times the floor, more than 0.6 times the Python client, 5 s or more to accept, or 96 MiB
above idle. Exit status 0 for PASS, 1 for FAIL, 2 for what could not be measured.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Iterator

import common
from common import GIB, MIB, Api, Failure, Sampler, Server, note

CONCURRENCY = 100
SMALL = 10 * 1024
QUEUED = 100_000
SETTINGS = {
    "BOX_FETCH__ALLOW_NETWORKS": "127.0.0.0/8",
    "BOX_IMPORTS__CONCURRENCY": str(CONCURRENCY),
    "BOX_IMPORTS__PER_HOST": str(CONCURRENCY),
    "BOX_IMPORTS__MAX_ITEMS": str(QUEUED),
    "BOX_LOG__LEVEL": "warn",
}


@contextlib.contextmanager
def origin(delay: float) -> Iterator[str]:
    """Its URL, while it runs."""
    script = Path(__file__).with_name("imports_origin.py")
    process = subprocess.Popen([sys.executable, script, str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"  # type: ignore[union-attr]
    finally:
        common.stop(process)


def create(api: Api, urls: list[str]) -> tuple[dict, float]:
    """The import, and when its request began."""
    body = "\n".join(json.dumps({"url": url}) for url in urls).encode()
    began = time.time()
    made = api.expect(202, "POST", "/v1/imports", body, {"Content-Type": "application/x-ndjson"}).json()
    return made, began


def finished(api: Api, made: dict, within: float = 600.0) -> dict:
    until = time.monotonic() + within
    while time.monotonic() < until:
        now = api.expect(200, "GET", f"/v1/imports/{made['id']}").json()
        if now["state"] != "running":
            if now["counts"]["done"] != now["counts"]["total"]:
                raise Failure(f"not all items were stored: {now}")
            return now
        time.sleep(0.05)
    raise Failure(f"the import did not end within {within:.0f} s")


def seconds(began: float, ended: dict) -> float:
    """From the request until the last item was stored, by this machine's clock."""
    return datetime.fromisoformat(ended["finished_at"]).timestamp() - began


def with_curl(urls: list[str], directory: Path) -> float:
    directory.mkdir()
    config = "".join(f'url = "{url}"\noutput = "{directory}/{index}"\n' for index, url in enumerate(urls))
    command = ["curl", "-sS", "--fail", "--parallel", "--parallel-max", str(CONCURRENCY), "--config", "-"]
    began = time.perf_counter()
    subprocess.run(command, input=config.encode(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def with_python(python: str, urls: list[str], directory: Path) -> float:
    directory.mkdir()
    script = Path(__file__).with_name("imports_aiohttp.py")
    command = [python, script, common.required("BOXTEST_POSTGRES_URL"), directory]
    done = subprocess.run(command, input="\n".join(urls), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"the Python client failed: {done.stderr[-500:]}")
    return float(done.stdout)


def measure(given, pair: str, work: Path) -> list[tuple[str, str, str, bool]]:
    """What, how much, against what, and whether that is well."""
    results = []
    with (
        origin(given.delay) as url,
        common.site(pair, work, **SETTINGS) as at,
        Server(given.box, at) as server,
    ):
        api = Api(server.url, server.token())
        floor = given.delay * given.urls / CONCURRENCY

        def urls(name: str, count: int = given.urls) -> list[str]:
            return [f"{url}/{SMALL}/{name}-{index}" for index in range(count)]

        finished(api, create(api, urls("warm", 200))[0])
        ours, curls, pythons, cpu = [], [], [], []
        for number in range(given.rounds):
            note(f"{at.title()}: round {number + 1}")
            before = common.cpu_seconds(server.pid)
            made, began = create(api, urls(f"round-{number}"))
            ours.append(seconds(began, finished(api, made)))
            cpu.append(common.cpu_seconds(server.pid) - before)
            curls.append(with_curl(urls("curl"), work / f"{pair}-curl-{number}"))
            if given.python:
                pythons.append(with_python(given.python, urls("python"), work / f"{pair}-python-{number}"))
        median = statistics.median(ours)
        spread = f"{median:.3f} s ({min(ours):.3f} to {max(ours):.3f})"
        what = f"{given.urls} URLs stored"
        results.append((what, spread, f"{median / floor:.2f} of the floor of {floor:.2f} s", median <= 1.3 * floor))
        results.append(("  server CPU", f"{statistics.median(cpu):.2f} s", "", True))
        curl = statistics.median(curls)
        results.append(("  curl, plain files", f"{curl:.3f} s", f"{median / curl:.2f} of it", median <= curl))
        if pythons:
            python = statistics.median(pythons)
            results.append(("  aiohttp", f"{python:.3f} s", f"{median / python:.2f} of it", median <= 0.6 * python))

        note(f"{at.title()}: {QUEUED} items")
        made, began = create(api, urls("queued", QUEUED))
        took = time.time() - began
        results.append((f"{QUEUED} items accepted", f"{took:.2f} s", "below 5 s", took < 5))
        api.expect(200, "POST", f"/v1/imports/{made['id']}/cancel")

        note(f"{at.title()}: {given.large} items of 1 GiB")
        time.sleep(2)
        idle = common.resident(server.pid)
        large = [f"{url}/{GIB}/large-{index}" for index in range(given.large)]
        with Sampler(server.pid) as sampler:
            made, began = create(api, large + urls("among"))
            took = seconds(began, finished(api, made))
        above = (sampler.peak - idle) / MIB
        what = f"{given.large} x 1 GiB and {given.urls} small"
        results.append((what, f"{took:.1f} s", "", True))
        results.append(("  memory above idle", f"{above:.0f} MiB", f"below 96 MiB; idle {idle / MIB:.0f}", above < 96))
        api.close()
    return results


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--urls", type=common.count_argument, default=1000, help="default: %(default)s")
    arguments.add_argument("--rounds", type=common.count_argument, default=5, help="default: %(default)s")
    arguments.add_argument("--delay", type=float, default=0.05, help="seconds; default: %(default)s")
    arguments.add_argument("--large", type=common.count_argument, default=4, help="default: %(default)s")
    arguments.add_argument("--python", default=None, help="an interpreter with aiohttp and asyncpg")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    if not shutil.which("curl"):
        raise Failure("curl is not installed")
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    passed = True
    with common.workspace(given.dir, given.large * GIB + GIB) as work:
        for pair in pairs:
            rows = measure(given, pair, work)
            print(f"{pair}; concurrency {CONCURRENCY}, {given.rounds} rounds; {common.machine()}")
            print(common.table(("what", "took", "against", "well"), [(*row[:3], "yes" if row[3] else "NO") for row in rows]))
            passed &= all(row[3] for row in rows)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    common.run(main)
