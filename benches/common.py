"""What the measurements share: a server that is started and stopped, the tenant's view of its
HTTP API, what /proc says of a process, and tables.

Units: bytes, seconds, and MB/s of 10^6 bytes unless a name says MiB (2^20 bytes).
Only the standard library, curl, wrk (for small requests), psql (for a database of one's own) and `box` itself.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import xml.etree.ElementTree
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Callable, Iterable, Iterator, Optional, Sequence

MIB = 1024 * 1024
GIB = 1024 * MIB

REPOSITORY = Path(__file__).resolve().parent.parent
TENANT = "bench"
SCOPES = "files:read files:write files:delete imports:read imports:write links:read links:write"
MARKER = ".box-service"
REGION = "us-east-1"

READY_WITHIN = 60.0
"""How long a server may take to answer /health/ready, in seconds."""

STOP_WITHIN = 45.0
"""How long a server may take to end after SIGTERM: its default grace of 30 s, and some."""

COMMAND_WITHIN = 600.0
"""How long `box token`, `box fsck` or psql may run, in seconds."""


class Failure(Exception):
    """Ends a script with one line for the reader: something is missing or answered wrongly."""


# --- the command line ---------------------------------------------------------------------------


def parser(doc: str) -> argparse.ArgumentParser:
    """An argument parser with what every script takes; `doc` is the script's own docstring."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    made.add_argument(
        "--box", type=Path, default=target / "release" / "box", help="the binary (default: %(default)s)"
    )
    made.add_argument(
        "--dir",
        type=Path,
        default=Path("/var/tmp"),
        help="where the temporary directory goes; never a tmpfs, which would count as memory "
        "(default: %(default)s)",
    )
    return made


def size_argument(text: str) -> int:
    """`5GiB`, `100MB`, `10KiB` or a number of bytes, as bytes; above 0."""
    match = re.fullmatch(r"(\d+)\s*([KMGT]i?)?B?", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 5GiB")
    number, unit = int(match[1]), match[2] or ""
    power = " KMGT".index(unit[0]) if unit else 0
    size = number * (1024 if unit.endswith("i") else 1000) ** power
    if size <= 0:
        raise argparse.ArgumentTypeError("a size is above 0")
    return size


def count_argument(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def run(main: Callable[[], int]) -> None:
    """Runs a script's `main` and exits with what it returns. SIGTERM and SIGHUP unwind like any
    error, so that whatever was started is stopped and removed."""

    def unwind(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, unwind)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        code = main()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def note(text: str) -> None:
    """A line about progress, on standard error: standard output is the result."""
    print(f"… {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def workspace(parent: Path, needs: int) -> Iterator[Path]:
    """A temporary directory, removed at the end. `needs`: the bytes that must be free."""
    try:
        free = shutil.disk_usage(parent).free
    except FileNotFoundError as missing:
        raise Failure(f"--dir {parent} does not exist") from missing
    if free < needs + GIB:
        raise Failure(f"{parent} has {free / GIB:.1f} GiB free, this needs {needs / GIB + 1:.1f}")
    path = Path(tempfile.mkdtemp(prefix="box-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            print(f"warning: {path} could not be removed", file=sys.stderr)


# --- tables -------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns by width; what looks like a number goes to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    numeric = [
        all(re.match(r"^[-+]?[\d.,]+", line[column]) or line[column] in ("", "-") for line in lines[1:])
        for column in range(len(header))
    ]
    out = []
    for index, line in enumerate(lines):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric)
        ]
        out.append("  ".join(cells).rstrip())
        if index == 0:
            out.append("  ".join("-" * width for width in widths))
    return "\n".join(out)


def machine() -> str:
    """One line about the machine: cores, memory, kernel."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    system = os.uname()
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {system.sysname} {system.release} {system.machine}"


# --- processes ----------------------------------------------------------------------------------


def status_kib(pid: int, field: str) -> int:
    """A field of /proc/PID/status, in KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise Failure(f"/proc/{pid}/status has no {field}")


def resident(pid: int) -> int:
    """VmRSS in bytes: the pages in memory, mapped files included."""
    return status_kib(pid, "VmRSS") * 1024


def reset_peak(pid: int) -> bool:
    """Sets VmHWM back to VmRSS (proc(5), clear_refs 5). False where the kernel forbids it."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5\n", encoding="ascii")
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text(encoding="ascii").split()]
    return found


def cpu_seconds(pid: int) -> float:
    """utime + stime of a process and of its running children, in seconds (to a clock tick)."""
    ticks = 0
    for each in (pid, *children(pid)):
        with contextlib.suppress(FileNotFoundError):
            # The name may hold blanks and parentheses; the fields start after the last one.
            fields = Path(f"/proc/{each}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def stop(process: subprocess.Popen, within: float = STOP_WITHIN) -> int:
    """SIGTERM, and SIGKILL to what is left of it after `within` seconds. The exit code."""
    if process.poll() is None:
        offspring = children(process.pid)
        process.terminate()
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            print(f"warning: process {process.pid} did not stop within {within:.0f} s", file=sys.stderr)
            process.kill()
            process.wait()
            for child in offspring:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    return process.returncode


class Sampler:
    """Reads VmRSS of a process every `interval` seconds, as a context. `peak` is in bytes, and
    counts VmHWM where that could be reset, so that nothing between two looks is missed."""

    def __init__(self, pid: int, interval: float = 0.05) -> None:
        self.pid, self.interval = pid, interval
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        while not self._done.wait(self.interval):
            with contextlib.suppress(OSError, Failure):
                self.peak = max(self.peak, resident(self.pid))

    def __enter__(self) -> "Sampler":
        self.exact = reset_peak(self.pid)
        self.peak = resident(self.pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self.exact:
            with contextlib.suppress(OSError, Failure):
                self.peak = max(self.peak, status_kib(self.pid, "VmHWM") * 1024)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- curl ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Transfer:
    """One request by curl. `cpu`: curl's own seconds; near `seconds`, curl was the bottleneck."""

    seconds: float
    cpu: float
    sent: int
    received: int

    def rate(self) -> float:
        """MB/s of the larger direction."""
        return max(self.sent, self.received) / 1e6 / max(self.seconds, 1e-9)


def curl(arguments: Sequence[str], expect: int, output: Path | IO, within: float = 3600.0) -> Transfer:
    """One request by curl, without limits of its own and without `Expect: 100-continue`. The
    body goes to `output`. Bounded by `within` seconds.

    Raises Failure for another status than `expect`, with the start of the answer."""
    report = "%{stderr}\n@ %{http_code} %{time_total} %{size_upload} %{size_download}\n"
    command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", str(within)]
    command += ["-H", "Expect:", "-w", report, *arguments]
    with contextlib.ExitStack() as stack:
        body = stack.enter_context(output.open("wb")) if isinstance(output, Path) else output
        process = stack.enter_context(
            subprocess.Popen(command, stdout=body, stderr=subprocess.PIPE, text=True)
        )
        try:
            said = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
    told = re.search(r"^@ (\d+) ([\d.]+) (\d+) (\d+)$", said, re.MULTILINE)
    if process.returncode != 0 or not told or int(told[1]) != expect:
        answer = start_of(output) if isinstance(output, Path) else ""
        raise Failure(f"curl exited with {process.returncode}, expected {expect}: {said.strip()} {answer}")
    return Transfer(
        seconds=float(told[2]),
        cpu=usage.ru_utime + usage.ru_stime,
        sent=int(told[3]),
        received=int(told[4]),
    )


def start_of(path: Path, length: int = 500) -> str:
    """The first characters of a file, for an error's text; nothing of a device."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(length).decode(errors="replace")


# --- wrk ----------------------------------------------------------------------------------------


def wrk(url: str, script: Path, connections: int, seconds: int, *arguments: object, threads: int = 2) -> dict:
    """One run of wrk; what its script reports as a line `RESULT {…}`."""
    program = shutil.which("wrk")
    if not program:
        raise Failure("wrk is not installed (Debian: wrk)")
    command = [program, f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", script]
    command += [url, "--", *arguments]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=seconds + 120, check=False
    )
    told = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not told:
        raise Failure(f"wrk exited with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return json.loads(told[1])


# --- sources ------------------------------------------------------------------------------------


def random_file(path: Path, size: int) -> str:
    """Writes `size` random bytes, which no layer can compress or fold, and leaves them in the
    page cache, clean. Returns their SHA-256 in hex."""
    digest = hashlib.sha256()
    left = size
    with path.open("wb") as file:
        while left > 0:
            block = os.urandom(min(4 * MIB, left))
            file.write(block)
            digest.update(block)
            left -= len(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_through(path: Path) -> None:
    """Reads a file to its end, so that the page cache has it."""
    with path.open("rb", buffering=0) as file:
        while file.read(4 * MIB):
            pass


# --- S3, as far as looking and sweeping go ------------------------------------------------------


class Bucket:
    """A prefix of an S3 bucket, seen without the service: to check what is left, and to sweep.
    Requests are signed with AWS Signature Version 4, path style."""

    def __init__(self, endpoint: str, bucket: str, prefix: str, access_key: str, secret_key: str) -> None:
        self.endpoint = urllib.parse.urlsplit(endpoint)
        self.bucket, self.prefix = bucket, prefix
        self.access_key, self.secret_key = access_key, secret_key

    def names(self) -> list[str]:
        """Every key below the prefix, and every open multipart upload as `KEY (upload ID)`."""
        found = [key for (key,) in self._list({"list-type": "2"}, "Contents", ("Key",))]
        for key, upload in self._list({"uploads": ""}, "Upload", ("Key", "UploadId")):
            found.append(f"{key} (upload {upload})")
        return found

    def sweep(self) -> None:
        """Deletes every key below the prefix and ends every open upload."""
        for (key,) in self._list({"list-type": "2"}, "Contents", ("Key",)):
            self._request("DELETE", key, {})
        for key, upload in self._list({"uploads": ""}, "Upload", ("Key", "UploadId")):
            self._request("DELETE", key, {"uploadId": upload})

    def _list(
        self, query: dict[str, str], element: str, fields: Sequence[str]
    ) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        query = {**query, "prefix": self.prefix + "/"}
        while True:
            tree = xml.etree.ElementTree.fromstring(self._request("GET", "", query))
            for entry in tree.findall(f"{{*}}{element}"):
                found.append(tuple(entry.findtext(f"{{*}}{field}") or "" for field in fields))
            if tree.findtext("{*}IsTruncated") != "true":
                return found
            if element == "Contents":
                query["continuation-token"] = tree.findtext("{*}NextContinuationToken") or ""
            else:
                query["key-marker"] = tree.findtext("{*}NextKeyMarker") or ""
                query["upload-id-marker"] = tree.findtext("{*}NextUploadIdMarker") or ""

    def _request(self, method: str, key: str, query: dict[str, str]) -> bytes:
        path = "/" + urllib.parse.quote(f"{self.bucket}/{key}" if key else self.bucket, safe="/-_.~")
        pairs = sorted((self._encode(name), self._encode(value)) for name, value in query.items())
        line = "&".join(f"{name}={value}" for name, value in pairs)
        headers = self._signed(method, path, line)
        secure = self.endpoint.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(self.endpoint.netloc, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, f"{path}?{line}" if line else path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status not in (200, 204, 404):
            raise Failure(f"the store answered {answer.status} to {method} {path}: {body[:300]!r}")
        return body

    @staticmethod
    def _encode(text: str) -> str:
        return urllib.parse.quote(text, safe="-_.~")

    def _signed(self, method: str, path: str, query: str) -> dict[str, str]:
        now = datetime.now(timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        payload = hashlib.sha256(b"").hexdigest()
        signed = {"host": self.endpoint.netloc, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        canonical = "\n".join((method, path, query, lines, names, payload))
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = "\n".join(
            ("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest())
        )
        key = ("AWS4" + self.secret_key).encode()
        for step in (day, REGION, "s3", "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        signed["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return signed


# --- where a server keeps things ----------------------------------------------------------------

PAIRS = ("local", "pg-s3")


@dataclasses.dataclass
class Site:
    """A database and a store that belong to this run alone. Servers come and go on it."""

    pair: str
    data_dir: Path
    environ: dict[str, str]
    bucket: Optional[Bucket] = None

    def title(self) -> str:
        return "S3 + PostgreSQL" if self.bucket else "local + SQLite"

    def stored(self) -> list[str]:
        """What the store holds but for its marker, seen without the service."""
        if self.bucket:
            names = self.bucket.names()
        else:
            top = self.data_dir / "objects"
            names = [str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()]
        return [name for name in names if name.rpartition("/")[2] != MARKER]


@contextlib.contextmanager
def site(pair: str, work: Path, **settings: str) -> Iterator[Site]:
    """A fresh site below `work`, taken away at the end. `pair` is one of PAIRS; `settings` are
    further variables, such as BOX_STORE__FSYNC="false". "pg-s3" makes a database and a key
    prefix of its own on the servers that scripts/with-servers starts."""
    unique = secrets.token_hex(6)
    data_dir = work / f"{pair}-{unique}"
    data_dir.mkdir()
    environ = {
        "BOX_DATA_DIR": str(data_dir),
        "BOX_AUTH__SECRET": secrets.token_hex(32),
        **settings,
    }
    if pair == "local":
        try:
            yield Site(pair, data_dir, environ)
        finally:
            shutil.rmtree(data_dir, ignore_errors=True)
        return
    postgres = required("BOXTEST_POSTGRES_URL")
    bucket = Bucket(
        required("BOXTEST_S3_ENDPOINT"),
        required("BOXTEST_S3_BUCKET"),
        f"bench-{unique}",
        required("BOXTEST_S3_ACCESS_KEY"),
        required("BOXTEST_S3_SECRET_KEY"),
    )
    environ |= s3_environ(bucket, database_url(postgres, f"bench_{unique}"))
    psql(postgres, f"CREATE DATABASE bench_{unique}")
    try:
        yield Site(pair, data_dir, environ, bucket)
    finally:
        for step in (lambda: psql(postgres, f"DROP DATABASE bench_{unique} WITH (FORCE)"), bucket.sweep):
            try:
                step()
            except (Failure, OSError) as failure:
                print(f"warning: not swept: {failure}", file=sys.stderr)
        shutil.rmtree(data_dir, ignore_errors=True)


def s3_environ(bucket: Bucket, database: str) -> dict[str, str]:
    """What tells `box` to use this part of a bucket, and the database at this URL."""
    return {
        "BOX_DATABASE__URL": database,
        "BOX_STORE__URL": f"s3://{bucket.bucket}/{bucket.prefix}",
        "BOX_STORE__ENDPOINT": urllib.parse.urlunsplit(bucket.endpoint),
        "BOX_STORE__REGION": REGION,
        "BOX_STORE__ACCESS_KEY_ID": bucket.access_key,
        "BOX_STORE__SECRET_ACCESS_KEY": bucket.secret_key,
        "BOX_STORE__ALLOW_HTTP": "true",
    }


def required(variable: str) -> str:
    """A variable of scripts/with-servers."""
    value = os.environ.get(variable)
    if not value:
        raise Failure(f"{variable} is not set: run this as `scripts/with-servers benches/…`")
    return value


def database_url(url: str, database: str) -> str:
    """The same server, another database."""
    parts = urllib.parse.urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{database}{query}"


def psql(url: str, statement: str) -> None:
    """Runs one statement."""
    program = shutil.which("psql")
    if not program:
        raise Failure("psql is not installed (Debian: postgresql-client)")
    command = [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise Failure(f"psql: {done.stderr.strip()}")


# --- the server ---------------------------------------------------------------------------------


class Server:
    """`box serve` on a site, as a context: started and ready inside, stopped after. `exit_code`
    is None until then. Its log is `log`; `port`: one that is free."""

    def __init__(self, box: Path, at: Site, port: Optional[int] = None) -> None:
        if not box.is_file():
            raise Failure(f"{box} does not exist: `cargo build --release`, or --box PATH")
        self.box, self.site = box.resolve(), at
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = at.data_dir.parent / f"{at.data_dir.name}.log"
        self.exit_code: Optional[int] = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BOX_")}
        self.environ = {**kept, **at.environ, "BOX_LISTEN": f"127.0.0.1:{self.port}"}

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, and waits until it is ready. Again after `kill`: on the same port and data."""
        self.spawn()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def spawn(self) -> None:
        """Starts the process alone."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.box, "serve"],
                env=self.environ,
                cwd=self.site.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and a wait for the end."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and a wait for the end. Again does nothing."""
        self.exit_code = stop(self.process)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        """Returns when /health/ready answers 200: database and store are there as well."""
        until = time.monotonic() + READY_WITHIN
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failure(f"box serve exited with {self.process.returncode}:\n{self.log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/health/ready")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        raise Failure(f"box serve was not ready within {READY_WITHIN:.0f} s:\n{self.log_tail()}")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Another `box` command under the same configuration."""
        return subprocess.run(
            [self.box, *arguments],
            env=self.environ,
            cwd=self.site.data_dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN,
            check=False,
        )

    def token(self, ttl: str = "1h") -> str:
        """A new token for TENANT with SCOPES."""
        arguments = ("--tenant", TENANT, "--subject", "bench", "--scopes", SCOPES, "--ttl", ttl)
        done = self.command("token", *arguments)
        words = done.stdout.split()
        if done.returncode != 0 or not words:
            raise Failure(f"box token exited with {done.returncode}: {done.stderr.strip()}")
        return words[-1]

    def fsck(self, *options: str) -> tuple[int, dict]:
        """`box fsck --json`: the exit code and the report."""
        done = self.command("fsck", "--json", *options)
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError as error:
            raise Failure(
                f"box fsck exited with {done.returncode} and printed no JSON: "
                f"{done.stdout[:300]!r} {done.stderr[-600:]}"
            ) from error


# --- the HTTP API -------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    """Status, headers (by lower-case name) and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        """The body as JSON; Failure if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Failure(f"HTTP {self.status} with a body that is no JSON: {self.body[:200]!r}") from error

    def problem(self) -> str:
        """What the service says is wrong: `422 invalid-request: … [/name: …]`."""
        try:
            said = json.loads(self.body)
            errors = "; ".join(f"{each['pointer']}: {each['detail']}" for each in said.get("errors") or [])
            text = f"{said['type'].rpartition(':')[2]}: {said.get('detail')}"
            return f"{self.status} {text}" + (f" [{errors}]" if errors else "")
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{self.status} {self.body[:200]!r} (not a problem document)"


class Api:
    """One keep-alive connection with a token. Every socket operation ends within `timeout`
    seconds. Not for several threads. `connections` counts how often it had to connect."""

    def __init__(self, url: str, token: str, timeout: float = 120.0) -> None:
        self._token = token
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=timeout)
        self.connections = 0

    def close(self) -> None:
        self._connection.close()

    def open(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Optional[dict[str, str]] = None,
    ) -> http.client.HTTPResponse:
        """Sends a request and gives the answer with its body unread: read it before the next.
        A body in pieces needs its Content-Length among the headers."""
        if self._connection.sock is None:
            self.connections += 1
        sent = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        try:
            try:
                self._connection.request(method, path, body=body, headers=sent)
            except (BrokenPipeError, ConnectionResetError):
                # Refused before the body was read: the answer may wait all the same. There is no
                # socket where the connection itself was reset.
                if self._connection.sock is None:
                    raise
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Optional[dict[str, str]] = None,
    ) -> Answer:
        """Sends a request and reads the whole answer."""
        response = self.open(method, path, body, headers)
        try:
            content = response.read()
        except BaseException:
            self._connection.close()
            raise
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)

    def expect(self, status: int, method: str, path: str, *rest: object) -> Answer:
        """`call`, and Failure for another status."""
        answer = self.call(method, path, *rest)  # type: ignore[arg-type]
        if answer.status != status:
            raise Failure(f"{method} {path}: {answer.problem()}, expected {status}")
        return answer

    def pages(self, path: str = "/v1/files", **query: object) -> Iterator[dict]:
        """The pages of a list, by cursor."""
        asked = {name: str(value) for name, value in query.items()}
        while True:
            page = self.expect(200, "GET", f"{path}?{urllib.parse.urlencode(asked)}").json()
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return
            if cursor == asked.get("cursor"):
                raise Failure("the list gave the same cursor twice")
            asked["cursor"] = cursor


def upload_path(name: str | bytes) -> str:
    """The raw upload's path and query for a name, percent-encoded byte by byte."""
    raw = name if isinstance(name, bytes) else name.encode()
    return "/v1/files?name=" + urllib.parse.quote_from_bytes(raw, safe="")
