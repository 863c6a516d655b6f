"""Replicas behind nginx, and clients that use them all the while: what scripts/replicas-test and
scripts/upgrade-test share."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import random
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

import common
from common import Api, Failure, Server, Site

START_WITHIN = 20.0
"""How long nginx may take to answer, in seconds."""

RELOAD_WITHIN = 60.0
"""How long nginx may take to end the workers of the configuration before: as long as their longest request."""

PIECE = 32 * 1024


class Proxy:
    """nginx in front of some ports, as a context. It keeps no bodies, and it tries another replica as it does
    by default: where none has been sent the request, or where the request may be sent twice."""

    def __init__(self, work: Path) -> None:
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        if not os.access(program, os.X_OK):
            raise Failure("nginx is missing: apt-get install nginx-light")
        self.program, self.work = program, work / "nginx"
        self.work.mkdir()
        self.port = common.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests = self.work / "requests.log"

    def _configure(self, ports: Sequence[int]) -> None:
        servers = "\n".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;" for port in ports)
        temporary = "\n".join(
            f"{name}_temp_path {self.work}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.work / "nginx.conf").write_text(
            f"""
            daemon off;
            worker_processes 1;
            pid {self.work}/pid;
            error_log {self.work}/error.log;
            events {{ worker_connections 1024; }}
            http {{
              {temporary}
              log_format upstream '$http_x_request_id $upstream_addr $upstream_status';
              access_log {self.requests} upstream;
              upstream box {{ {servers} }}
              server {{
                listen 127.0.0.1:{self.port};
                client_max_body_size 0;
                location / {{
                  proxy_pass http://box;
                  proxy_http_version 1.1;
                  proxy_set_header Host $http_host;
                  proxy_set_header Connection "";
                  proxy_request_buffering off;
                  proxy_buffering off;
                }}
              }}
            }}
            """,
            encoding="utf-8",
        )

    def start(self, ports: Sequence[int]) -> None:
        self._configure(ports)
        with (self.work / "start.log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.program, "-p", self.work, "-c", self.work / "nginx.conf", "-e", self.work / "error.log"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_WITHIN
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                with contextlib.closing(connection):
                    connection.request("GET", "/health/live")
                    if connection.getresponse().status == 200:
                        return
            time.sleep(0.05)
        log = (self.work / "error.log").read_text(errors="replace")
        self.stop()
        raise Failure(f"nginx did not start: {log[-500:]}")

    def only(self, ports: Sequence[int]) -> None:
        """Asks these from now on, and returns when no request is left at others."""
        before = set(common.children(self.process.pid))
        self._configure(ports)
        self.process.send_signal(1)  # SIGHUP: new workers, and the old ones end what they have.
        until = time.monotonic() + RELOAD_WITHIN
        while before & set(common.children(self.process.pid)):
            if time.monotonic() > until:
                raise Failure("nginx did not let go of its old workers")
            time.sleep(0.05)

    def stop(self) -> None:
        common.stop(self.process, 5)

    def replicas_of(self) -> dict[str, str]:
        """Which replicas a request went to, by its id: `127.0.0.1:1, 127.0.0.1:2` where to both."""
        found = {}
        for line in self.requests.read_text(encoding="utf-8").splitlines():
            request, _, rest = line.partition(" ")
            found[request] = rest
        return found


@dataclasses.dataclass
class Failed:
    """A request that was not answered as it should have been."""

    request: str
    begun: float
    what: str


@dataclasses.dataclass
class Stored:
    """What the service has acknowledged."""

    sha256: str
    size: int
    metadata: Optional[dict] = None
    deleted: bool = False
    uncertain: bool = False
    """A change of it got no answer: it may have been done, or not."""


class Client(threading.Thread):
    """Uploads, reads, lists, changes and deletes, one request after the other, each on a connection of its
    own: one that is kept may be closed between two requests by any server."""

    def __init__(self, url: str, token: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.token, self.number, self.stopped = url, token, number, stop
        self.random = random.Random(number)
        self.failed: list[Failed] = []
        self.files: dict[str, Stored] = {}
        self.requests = 0

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                self.upload()
                self.look()
                if len(self.files) > 3:
                    self.random.choice((self.change, self.delete, self.list))()
        except BaseException as error:  # A defect of this script would look like a quiet client.
            self.failed.append(Failed("", time.monotonic(), f"the client died: {error!r}"))
            raise

    def call(self, expect: int, method: str, path: str, body=None, headers=None) -> Optional[bytes]:
        """The body of the answer; None, and a line in `failed`, where it is none that was expected."""
        self.requests += 1
        request = secrets.token_hex(12)
        begun = time.monotonic()
        api = Api(self.url, self.token, timeout=60)
        try:
            answer = api.call(method, path, body, {"X-Request-Id": request, "Connection": "close", **(headers or {})})
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(Failed(request, begun, f"{method} {path}: {error!r}"))
            return None
        finally:
            api.close()
        if answer.status != expect:
            self.failed.append(Failed(request, begun, f"{method} {path}: {answer.problem()}"))
            return None
        return answer.body

    def upload(self) -> None:
        # Now and then one that is under way for a second or two, whatever happens meanwhile.
        slow = self.random.random() < 0.1
        content = self.random.randbytes(40 * PIECE if slow else self.random.randrange(1, 2 * PIECE))

        def pieces() -> Iterator[bytes]:
            for at in range(0, len(content), PIECE):
                if slow:
                    time.sleep(0.04)
                yield content[at : at + PIECE]

        path = common.upload_path(f"rolling/{self.number}")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
        body = self.call(201, "POST", path, pieces(), headers)
        if body is not None:
            stored = Stored(hashlib.sha256(content).hexdigest(), len(content))
            self.files[json.loads(body)["id"]] = stored

    def certain(self) -> Optional[str]:
        found = [key for key, file in self.files.items() if not (file.deleted or file.uncertain)]
        return self.random.choice(found) if found else None

    def look(self) -> None:
        if key := self.certain():
            body = self.call(200, "GET", f"/v1/files/{key}/content")
            if body is not None and hashlib.sha256(body).hexdigest() != self.files[key].sha256:
                self.failed.append(Failed("", time.monotonic(), f"{key} came back with other bytes"))

    def change(self) -> None:
        if key := self.certain():
            wanted = {"n": self.requests}
            body = json.dumps({"metadata": wanted}).encode()
            headers = {"Content-Type": "application/merge-patch+json"}
            if self.call(200, "PATCH", f"/v1/files/{key}", body, headers) is None:
                self.files[key].uncertain = True
            else:
                self.files[key].metadata = wanted

    def delete(self) -> None:
        if key := self.certain():
            if self.call(204, "DELETE", f"/v1/files/{key}?permanent=true") is None:
                self.files[key].uncertain = True
            else:
                self.files[key].deleted = True

    def list(self) -> None:
        self.call(200, "GET", f"/v1/files?prefix=rolling/{self.number}&limit=100")


class Load:
    """Clients, as a context: they run inside."""

    def __init__(self, url: str, token: str, clients: int) -> None:
        self._stop = threading.Event()
        self.clients = [Client(url, token, number, self._stop) for number in range(clients)]

    def __enter__(self) -> "Load":
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self.clients:
            client.join(120)
            if client.is_alive():
                raise Failure("a client is stuck")

    @property
    def requests(self) -> int:
        return sum(client.requests for client in self.clients)

    def failed(self) -> list[Failed]:
        return [failed for client in self.clients for failed in list(client.failed)]

    def go_on(self, requests: int) -> None:
        """Returns when so many more requests have been made."""
        wanted, until = self.requests + requests, time.monotonic() + 120
        while self.requests < wanted:
            if time.monotonic() > until:
                raise Failure(f"{requests} requests took more than 120 s")
            time.sleep(0.02)

    def verify(self, url: str, token: str) -> int:
        """Compares all that was acknowledged with what a service has; how many files that are."""
        api = Api(url, token)
        compared = 0
        for client in self.clients:
            for key, file in client.files.items():
                if file.uncertain:
                    continue
                compared += 1
                properties = api.call("GET", f"/v1/files/{key}")
                if file.deleted:
                    if properties.status != 404:
                        raise Failure(f"{key} was deleted and answers {properties.status}")
                    continue
                if properties.status != 200:
                    raise Failure(f"{key} was acknowledged and is lost: {properties.problem()}")
                if file.metadata is not None and properties.json()["metadata"] != file.metadata:
                    raise Failure(f"{key} has lost a change: {properties.json()['metadata']}")
                content = api.expect(200, "GET", f"/v1/files/{key}/content").body
                if hashlib.sha256(content).hexdigest() != file.sha256:
                    raise Failure(f"{key} has other bytes than were acknowledged")
        api.close()
        return compared


def none_failed(load: Load, when: str) -> None:
    """Failure where a request has failed."""
    if failed := load.failed():
        lines = "\n".join(each.what for each in failed[:10])
        raise Failure(f"{when}: {len(failed)} of {load.requests} requests failed:\n{lines}")


def replace(proxy: Proxy, old: Server, new: Server, others: Sequence[Server]) -> None:
    """One step of a rolling update, as docs/operations.md has it: out of the proxy, stopped in order, the new one on
    the same port, and back when it is ready."""
    proxy.only([other.port for other in others])
    old.stop()
    if old.exit_code != 0:
        raise Failure(f"a replica ended with {old.exit_code}:\n{old.log_tail()}")
    new.start()
    proxy.only([*(other.port for other in others), new.port])


def clean(server: Server) -> None:
    """Failure unless fsck finds that all agrees."""
    code, report = server.fsck()
    if code != 0:
        raise Failure(f"fsck: {report['problems'][:5]}")


def replica(box: Path, at: Site, port: Optional[int] = None) -> Server:
    """A server that leaves the migrations to `box migrate`."""
    made = Server(box, at, port)
    made.environ["BOX_DATABASE__MIGRATE"] = "false"
    # Each its own log, though they share a site.
    made.log = at.data_dir.parent / f"{at.data_dir.name}-{made.port}.log"
    return made
