#!/usr/bin/env python3
"""The service beside nginx: one client moves a file of --size up and down, against Debian's
nginx (WebDAV PUT, sendfile) and against box with its defaults (SHA-256, fsync), on one disk.

Rounds are interleaved, and dirty pages are written out between transfers, outside the timing,
so that no server pays for another's. nginx neither hashes nor syncs, so the ratio is what these
cost; --floor puts beside them the least that a program can do that does both. Exit status 0 if
all was measured, 2 if not: there is no threshold here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import Iterator

import common
from common import Failure, Server, note

TOKEN_TTL = "12h"


def find_nginx() -> str:
    """nginx with the dav module, as Debian builds it."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not program:
        raise Failure("nginx is not installed (Debian: nginx)")
    built = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10, check=True)
    if "http_dav_module" not in built.stderr:
        raise Failure(f"{program} was built without the dav module (PUT)")
    return program


CONFIGURATION = """\
{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            root {home}/data;
            dav_methods PUT DELETE;
        }}
    }}
}}
"""


@dataclasses.dataclass
class Contender:
    """A server to measure. `pid`: whose CPU seconds count, its children's too; `serves`: it gives
    back what it took."""

    name: str
    url: str
    pid: int
    token: str = ""
    serves: bool = True

    def upload(self, source: Path, name: str, answer: Path) -> tuple[common.Transfer, str]:
        """Sends the file; gives the path to fetch it from."""
        if not self.token:
            transfer = common.curl(["-T", str(source), f"{self.url}/{name}"], 201, answer)
            return transfer, f"/{name}"
        arguments = ["-X", "POST", "-T", str(source), "-H", f"Authorization: Bearer {self.token}"]
        arguments += ["-H", "Content-Type: application/octet-stream"]
        transfer = common.curl([*arguments, self.url + common.upload_path(name)], 201, answer)
        return transfer, f"/v1/files/{json.loads(answer.read_bytes())['id']}/content"

    def download(self, path: str) -> common.Transfer:
        """Fetches to /dev/null."""
        arguments = ["-H", f"Authorization: Bearer {self.token}"] if self.token else []
        return common.curl([*arguments, self.url + path], 200, Path("/dev/null"))


@contextlib.contextmanager
def nginx(work: Path, buffer: str) -> Iterator[Contender]:
    """Debian's nginx with a configuration of its own, as the current user."""
    program = find_nginx()
    home = work / "nginx"
    (home / "data").mkdir(parents=True)
    port = common.free_port()
    # As root, its worker would else change to a user who can't write here.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    configuration = home / "nginx.conf"
    configuration.write_text(
        CONFIGURATION.format(user=user, home=home, port=port, buffer=buffer), encoding="utf-8"
    )
    process = subprocess.Popen(
        [program, "-p", str(home), "-c", str(configuration), "-e", str(home / "error.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(process, port, home / "error.log")
        yield Contender("nginx", url, process.pid)
    finally:
        common.stop(process, 10)


@contextlib.contextmanager
def floor(work: Path) -> Iterator[Contender]:
    """floor.c, built here: it receives, hashes, writes and flushes, and does nothing else."""
    program, home, port = work / "floor", work / "floor-data", common.free_port()
    source = Path(__file__).with_name("floor.c")
    built = subprocess.run(
        ["cc", "-O2", "-o", str(program), str(source), "-lcrypto", "-lpthread"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if built.returncode != 0:
        raise Failure(f"floor.c needs a C compiler and OpenSSL (Debian: libssl-dev): {built.stderr[:2000]}")
    home.mkdir()
    log = work / "floor.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(program), str(port), str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        wait_for(process, port, log)
        yield Contender("floor", f"http://127.0.0.1:{port}", process.pid, serves=False)
    finally:
        common.stop(process, 10)


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    """Until it takes connections, 10 s at most."""
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Failure(f"{process.args[0]} did not start: {common.start_of(log, 2000)}")


@dataclasses.dataclass
class Sample:
    """One transfer. Rates in MB/s; `cpu` the server's seconds, `busy` curl's share of a core;
    `flush` the seconds that writing out dirty pages took afterwards."""

    rate: float
    cpu: float
    busy: float
    flush: float


def write_out() -> float:
    """Writes out all dirty pages of the machine; the seconds it took."""
    start = time.monotonic()
    os.sync()
    return time.monotonic() - start


def checked(transfer: common.Transfer, size: int, cpu: float) -> Sample:
    """A sample of a transfer that moved the whole file."""
    if max(transfer.sent, transfer.received) != size:
        raise Failure(f"{transfer} moved another size than {size}")
    return Sample(transfer.rate(), cpu, transfer.cpu / max(transfer.seconds, 1e-9), write_out())


Samples = dict[tuple[str, str], list[Sample]]
"""By contender and direction, one a round."""


def one_round(
    contenders: list[Contender], source: Path, work: Path, number: int
) -> list[tuple[tuple[str, str], Sample]]:
    """Every contender up, then every contender down. Nothing is deleted: on ext4 that would
    slow the files created after it for minutes."""
    size = source.stat().st_size
    samples, places = [], {}
    for each in contenders:
        before = common.cpu_seconds(each.pid)
        transfer, places[each.name] = each.upload(source, f"round-{number}.bin", work / "answer")
        cpu = common.cpu_seconds(each.pid) - before
        samples.append(((each.name, "upload"), checked(transfer, size, cpu)))
    for each in filter(lambda each: each.serves, contenders):
        before = common.cpu_seconds(each.pid)
        transfer = each.download(places[each.name])
        cpu = common.cpu_seconds(each.pid) - before
        samples.append(((each.name, "download"), checked(transfer, size, cpu)))
    return samples


def verify(contender: Contender, source: Path, sha256: str, work: Path) -> None:
    """One more upload, outside the measurement: the checksum that box reports is the file's."""
    contender.upload(source, "verify.bin", work / "answer")
    told = json.loads((work / "answer").read_bytes())["sha256"]
    if told != sha256:
        raise Failure(f"{contender.name} stored another file: {told}, not {sha256}")


def report(samples: Samples, contenders: list[Contender]) -> None:
    """Medians with their spread, then ratios: of the medians, and the spread over the rounds."""
    rows = []
    for direction in ("upload", "download"):
        for each in contenders:
            taken = samples.get((each.name, direction), [])
            if not taken:
                continue
            rates = [sample.rate for sample in taken]
            rows.append([
                direction,
                each.name,
                f"{statistics.median(rates):.0f}",
                f"{min(rates):.0f} to {max(rates):.0f}",
                f"{statistics.median(sample.cpu for sample in taken):.2f}",
                f"{statistics.median(sample.busy for sample in taken):.0%}",
                f"{statistics.median(sample.flush for sample in taken):.2f}",
            ])  # fmt: skip
    header = ["direction", "server", "MB/s median", "MB/s spread", "server CPU s", "curl of a core", "flush after, s"]
    print(common.table(header, rows))
    print()
    rows = []
    for direction in ("upload", "download"):
        base = samples["nginx", direction]
        for each in contenders[1:]:
            taken = samples.get((each.name, direction), [])
            if not taken:
                continue
            rounds = [mine.rate / other.rate for mine, other in zip(taken, base)]
            ratio = statistics.median(s.rate for s in taken) / statistics.median(s.rate for s in base)
            base_cpu = statistics.median(s.cpu for s in base)
            cpu = f"{statistics.median(s.cpu for s in taken) / base_cpu:.1f}" if base_cpu else "-"
            rows.append([
                direction, f"{each.name}/nginx", f"{ratio:.2f}", f"{min(rounds):.2f} to {max(rounds):.2f}", cpu,
            ])  # fmt: skip
    print(common.table(["direction", "ratio", "MB/s", "over the rounds", "CPU s"], rows))


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--size", type=common.size_argument, default="1GiB", help="default: %(default)s")
    arguments.add_argument("--rounds", type=common.count_argument, default=5, help="default: %(default)s")
    arguments.add_argument(
        "--extra", action="store_true", help="a third server: box with BOX_STORE__FSYNC=false"
    )
    arguments.add_argument(
        "--floor", action="store_true", help="another server: floor.c, which hashes, flushes and does nothing else"
    )
    arguments.add_argument(
        "--nginx-body-buffer",
        default="16k",
        help="nginx's client_body_buffer_size; 16k is nginx's own default on 64 bits",
    )
    given = arguments.parse_args()
    samples: Samples = {}
    servers = 2 + given.extra + given.floor
    needs = given.size * (servers * given.rounds + 2)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(common.workspace(given.dir, needs))
        source = work / "source.bin"
        note(f"writing {given.size / common.GIB:.2f} GiB of random bytes")
        sha256 = common.random_file(source, given.size)
        contenders = [stack.enter_context(nginx(work, given.nginx_body_buffer))]
        variants = [("box", {})] + ([("box, no fsync", {"BOX_STORE__FSYNC": "false"})] if given.extra else [])
        for name, settings in variants:
            at = stack.enter_context(common.site("local", work, **settings))
            server = stack.enter_context(Server(given.box, at))
            contenders.append(Contender(name, server.url, server.pid, server.token(TOKEN_TTL)))
        if given.floor:
            contenders.append(stack.enter_context(floor(work)))
        small = work / "small.bin"
        common.random_file(small, common.MIB)
        one_round(contenders, small, work, 0)
        for number in range(1, given.rounds + 1):
            common.read_through(source)
            write_out()
            for key, sample in one_round(contenders, source, work, number):
                samples.setdefault(key, []).append(sample)
                note(f"round {number}: {key[0]} {key[1]} {sample.rate:.0f} MB/s, CPU {sample.cpu:.2f} s")
        for each in filter(lambda each: each.token, contenders):
            verify(each, source, sha256, work)
    print(f"{given.size / common.GIB:.2f} GiB, {given.rounds} rounds, one curl; {common.machine()}")
    report(samples, contenders)
    return 0


if __name__ == "__main__":
    common.run(main)
