"""PostgreSQL and an S3 server that can be killed, frozen and started again on what they kept.

scripts/with-servers starts the same two for whoever only needs them there. It runs PostgreSQL with
synchronous_commit=off, which may lose an answered commit when PostgreSQL is killed; here it must not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

import common
from common import Bucket, Failure

BUCKET = "box-crash"

START_WITHIN = 60.0
"""How long a server may take to answer, in seconds; long even for a busy machine."""


def free_ports(count: int) -> int:
    """The first of `count` ports in a row on 127.0.0.1 that are free, and whose partners 10,000 above
    are free too: SeaweedFS serves gRPC there. All lie below 32,768, where no outgoing connection gets
    one: a server that comes back has to find its port free."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

    for _ in range(50):
        base = random.randrange(10_000, 20_000, 20)
        if all(is_free(port) and is_free(port + 10_000) for port in range(base, base + count)):
            return base
    raise Failure("found no free ports")


class Background:
    """A process that comes and goes, and dies with this script even where that is killed."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.work = name, work
        self.log = work / f"{name}.log"
        self.process: Optional[subprocess.Popen] = None

    def spawn(self, command: Sequence[str | Path], **environ: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def answers(self) -> bool:
        raise NotImplementedError

    def launch(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        until = time.monotonic() + START_WITHIN
        self.launch()
        while not self.answers():
            if time.monotonic() > until:
                raise Failure(f"{self.name} did not start; see {self.log}")
            if self.process.poll() is not None:
                # What was killed may hold its memory or its ports for a moment longer.
                time.sleep(0.2)
                self.launch()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to it and to its children. Again does nothing."""
        if self.process is None or self.process.poll() is not None:
            return
        # By descriptors: a number could be somebody else's by then.
        with contextlib.ExitStack() as stack:
            held = []
            for child in common.children(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    held.append(os.pidfd_open(child))
                    stack.callback(os.close, held[-1])
            self.process.kill()
            for child in held:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child, signal.SIGKILL)
            self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)


class Postgres(Background):
    """Debian's PostgreSQL, or the one that pg_config knows."""

    def __init__(self, work: Path, port: int) -> None:
        super().__init__("postgres", work)
        self.port, self.data = port, work / "postgres"
        self.bin = self._bin()
        self.url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        self.data.mkdir()
        self.owner: list[str] = ["setpriv"]
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            shutil.chown(self.data, "postgres")
            self.owner += ["--reuid=postgres", "--regid=postgres", "--init-groups"]
        made = subprocess.run(
            [*self.owner, "--", self.bin / "initdb", f"--pgdata={self.data}", "--username=postgres"]
            + ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if made.returncode != 0:
            raise Failure(f"initdb: {made.stderr.strip()}")

    @staticmethod
    def _bin() -> Path:
        found = sorted(
            (each for each in Path("/usr/lib/postgresql").glob("*/bin") if (each / "initdb").exists()),
            key=lambda each: float(each.parent.name),
        )
        if found:
            return found[-1]
        if shutil.which("pg_config"):
            told = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
            path = Path(told.stdout.strip())
            if (path / "initdb").exists():
                return path
        raise Failure("PostgreSQL is missing: run scripts/test --install")

    def launch(self) -> None:
        # What is committed is in the kernel's hands before it is answered (synchronous_commit is on),
        # which outlives any process. That it reaches the disk (fsync) matters to a power cut only.
        self.spawn(
            [*self.owner, "--pdeathsig=QUIT", "--", self.bin / "postgres", "-D", self.data]
            + ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
            + ["-c", "max_connections=60", "-c", "fsync=off"]
        )

    def answers(self) -> bool:
        ready = [self.bin / "pg_isready", "--quiet", f"--dbname={self.url}"]
        return subprocess.run(ready, timeout=30, check=False).returncode == 0


class Weed(Background):
    """The SeaweedFS that scripts/test installs, else one on PATH."""

    def __init__(self, work: Path, port: int) -> None:
        super().__init__("weed", work)
        target = Path(os.environ.get("CARGO_TARGET_DIR", common.REPOSITORY / "target"))
        pinned = target / "tools" / "python" / "bin" / "weed"
        program = str(pinned) if pinned.exists() else shutil.which("weed")
        if not program:
            raise Failure("weed (SeaweedFS) is missing: run scripts/test --install")
        self.program, self.port, self.data = program, port, work / "weed"
        self.endpoint = f"http://127.0.0.1:{port}"
        self.access_key, self.secret_key = "box-crash", secrets.token_hex(16)
        self.data.mkdir()
        self.config = work / "s3.json"
        credentials = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "test", "credentials": [credentials], "actions": actions}
        self.config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    def bucket(self, prefix: str) -> Bucket:
        return Bucket(self.endpoint, BUCKET, prefix, self.access_key, self.secret_key)

    def launch(self) -> None:
        port, sockets = self.port, self.data.parent
        self.spawn(
            ["setpriv", "--pdeathsig=KILL", "--", self.program, "mini", f"-dir={self.data}"]
            + ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}", f"-master.port={port + 1}"]
            + [f"-volume.port={port + 2}", f"-filer.port={port + 3}", f"-admin.port={port + 4}"]
            + [f"-s3.config={self.config}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}"]
            + [f"-filer.localSocket={sockets}/filer.sock", f"-s3.localSocket={sockets}/s3.sock"]
            + ["-webdav=false", "-admin.ui=false", "-master.telemetry=false"],
            GOMEMLIMIT="400MiB",
        )

    def answers(self) -> bool:
        """S3 answers a little before the bucket is there, and both before a volume takes bytes."""
        ready = f"{self.endpoint}/{BUCKET}/ready"
        return (
            self._request("--head", f"{self.endpoint}/{BUCKET}")
            and self._request("--request", "PUT", "--data", "ready", ready)
            and self._request("--request", "DELETE", ready)
        )

    def _request(self, *arguments: str) -> bool:
        command = ["curl", "-q", "--silent", "--fail", "--noproxy", "*", "--output", "/dev/null"]
        command += ["--max-time", "5", "--aws-sigv4", f"aws:amz:{common.REGION}:s3"]
        command += ["--user", f"{self.access_key}:{self.secret_key}"]
        command += ["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD", *arguments]
        return subprocess.run(command, timeout=30, check=False).returncode == 0


@contextlib.contextmanager
def started(work: Path, port: int):
    """Both servers, beside each other in `work`; killed at the end. Takes ten ports from `port` on."""
    weed, postgres = Weed(work, port), Postgres(work, port + 9)
    try:
        postgres.start()
        weed.start()
        yield postgres, weed
    finally:
        for each in (weed, postgres):
            # Nobody reads their data again but a person, who finds what a crash leaves.
            with contextlib.suppress(OSError):
                each.thaw()
                each.kill()
            if each.process is not None and each.process.poll() is None:
                print(f"warning: {each.name} still runs as {each.process.pid}", file=sys.stderr)
