"""The writers: processes that change files of their own, and keep a journal of what they were told.

Each has its own seed, so that what it asks for next follows from what it was answered. A request is
in its journal before the first byte of it is sent, and its answer before the next request.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import random
import signal
import time
import traceback
import urllib.parse
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Iterator, Optional, Sequence

import common
from common import MIB, Answer, Api

from crash import origin
from crash.model import File, Ledger

ANSWER_WITHIN = 90.0
"""How long one answer may take, in seconds: above all time-outs that the service has."""

READY_WITHIN = 90.0
"""How long the service may take to be ready again, as a writer sees it, in seconds."""

RETRY_AFTER = 33.0
"""A key is free again when the lease of the request that a crash cut off is over: so many seconds later."""

IMPORTED_WITHIN = 360.0
"""How long an import may take to end once nothing is away any more, in seconds: the lease of what a killed
process had, and the pauses between the attempts at what could not be stored."""

PIECE = 128 * 1024
"""The bytes sent at once of a larger body."""

GIVES_WAY_WITHIN = 20.0
"""How long the service may take to notice that a writer has hung up, in seconds."""

FILES = 40
"""How many files a writer keeps, about."""

BYTES = 96 * MIB
"""How many bytes a writer keeps, about."""


class Body:
    """The bytes of a request in pieces. `whole`: the last piece was handed to the kernel."""

    def __init__(self, pieces: Sequence[bytes], pause: float, limit: Optional[int] = None) -> None:
        self.pieces, self.pause, self.limit = pieces, pause, limit
        self.whole = False

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for piece in self.pieces:
            if self.limit is not None and sent >= self.limit:
                raise Cut
            yield piece
            sent += len(piece)
            if self.pause:
                time.sleep(self.pause)
        self.whole = True


class Cut(Exception):
    """The writer hangs up in the middle of a body, as it meant to."""


class Late(Exception):
    """The service was not ready for too long."""


class Client:
    """What every writer has."""

    def __init__(self, name: str, seed: str, url: str, token: str) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.api = Api(url, token, ANSWER_WITHIN)
        self.faults: list[str] = []
        """What is wrong that no journal tells."""
        self.done: collections.Counter = collections.Counter()
        """How often it was told that what it asked for is done, where no journal tells."""

    def wait_until_ready(self) -> None:
        until = time.monotonic() + READY_WITHIN
        while True:
            try:
                if self.api.call("GET", "/health/ready").status == 200:
                    return
            except (OSError, http.client.HTTPException):
                self.api.close()
            if time.monotonic() > until:
                raise Late(f"the service was not ready for {READY_WITHIN:.0f} s")
            time.sleep(0.02)


class Writer(Client):
    """One process's work with files. `large`: the bytes of its largest ones."""

    def __init__(
        self, name: str, seed: str, url: str, token: str, journal: Path, large: int, fetched_from: str
    ) -> None:
        super().__init__(name, seed, url, token)
        self.large, self.fetched_from = large, fetched_from
        self.journal: IO[str] = journal.open("a", encoding="utf-8")
        self.ledger = Ledger(name)
        self.number = 0
        self.pending: dict[int, float] = {}
        """Requests with a key and without an answer, and when they were last tried."""

    # --- what the parent asks for

    def work(self, halt: Connection) -> None:
        """Goes on until something is said."""
        while not halt.poll():
            self.retry(self.random.random() < 0.1)
            if self.random.random() < 0.1:
                self.look_at_imports()
            self.choose()

    def settle(self, all_keys: bool) -> None:
        """Looks what became of each request that is in doubt. With a key it is sent again: at
        once where it can be seen that it was done, else when its lease is over; `all_keys` waits
        for that."""
        for number, request in list(self.ledger.open.items()):
            if request.key is None:
                shown = [self.look(target.id, target.name) for target in request.targets]
                self.write({"n": number, "look": shown})
            elif request.record["op"] == "import":
                # What it has made can't be seen: with its key it is one import, however often it is sent.
                pass
            elif self.look(None, request.record["name"]) is not None:
                self.send_again(number, True)
        while self.pending:
            self.retry(True)
            if not all_keys:
                break
            time.sleep(0.2)
        if all_keys:
            self.await_imports()

    # --- imports

    def await_imports(self) -> None:
        until = time.monotonic() + IMPORTED_WITHIN
        while left := [request.accepted for request in self.ledger.open.values() if request.accepted]:
            self.look_at_imports()
            if time.monotonic() > until:
                raise Late(f"imports did not end within {IMPORTED_WITHIN:.0f} s: {', '.join(left)}")
            time.sleep(0.5)

    def look_at_imports(self) -> None:
        """Writes down what became of those that have ended."""
        for number, request in list(self.ledger.open.items()):
            if request.accepted is None:
                continue
            try:
                answer = self.api.call("GET", f"/v1/imports/{request.accepted}")
                if answer.status != 200 or answer.json()["state"] == "running":
                    continue
                items = self.api.call("GET", f"/v1/imports/{request.accepted}/items?limit=1000")
            except (OSError, http.client.HTTPException):
                self.api.close()
                continue
            if items.status != 200:
                continue
            files: list[Optional[dict]] = []
            for item in items.json()["items"]:
                if item["state"] != "done":
                    self.write({"n": number, "refused": 200, "problem": f"an item ended as {json.dumps(item)}"})
                    return
                files.append(self.look(item["file_id"], ""))
            counts = answer.json()["counts"]
            if counts["done"] != len(files) or len(files) != len(request.targets):
                self.write({"n": number, "refused": 200, "problem": f"{len(files)} items, and counts {counts}"})
                return
            if None in files:
                self.write({"n": number, "refused": 200, "problem": "the file of an item that is done is not there"})
                return
            self.write({"n": number, "ack": 202, "files": files})

    # --- the journal

    def write(self, record: dict) -> None:
        self.journal.write(json.dumps(record, separators=(",", ":")) + "\n")
        self.journal.flush()
        self.ledger.read(record)

    # --- requests

    def request(self, record: dict) -> None:
        """One request from its intent to its end, whatever that is."""
        self.number += 1
        number = self.number
        self.write({"n": number, **record})
        self.attempt(number, record)

    def attempt(self, number: int, record: dict) -> None:
        body = self.body(record)
        try:
            answer = self.send(record, body)
        except Cut:
            self.api.close()
            self.write({"n": number, "unsent": "cut off"})
            return
        except ConnectionRefusedError as error:
            self.end(number, {"unsent": str(error)})
        except (OSError, http.client.HTTPException) as error:
            self.api.close()
            cut = isinstance(body, Body) and not body.whole
            self.end(number, {"unsent" if cut else "doubt": f"{type(error).__name__}: {error}"})
        else:
            if answer.status == 202:
                self.pending.pop(number, None)
                self.write({"n": number, "accepted": answer.json()["id"]})
                return
            if 200 <= answer.status < 300:
                self.pending.pop(number, None)
                self.write({"n": number, "ack": answer.status, **self.told(record, answer)})
                return
            running = record.get("key") and answer.status == 409 and "still running" in answer.problem()
            # Locked: a crash has cut off who wrote, and its lease runs.
            if answer.status >= 500 or answer.status == 423 or running:
                self.end(number, {"doubt": answer.problem()})
            else:
                self.pending.pop(number, None)
                self.write({"n": number, "refused": answer.status, "problem": answer.problem()})
                return
        self.wait_until_ready()

    def end(self, number: int, outcome: dict) -> None:
        """The end of a try whose answer is not known."""
        self.write({"n": number, **outcome})
        if number in self.ledger.open and self.ledger.open[number].key:
            self.pending[number] = time.monotonic()

    def retry(self, soon: bool) -> None:
        """Sends one request again whose key must be free by now."""
        for number, last in list(self.pending.items()):
            if soon and time.monotonic() - last > RETRY_AFTER:
                self.send_again(number, False)
                return

    def send_again(self, number: int, found: bool) -> None:
        self.write({"n": number, "again": True, "found": found})
        self.attempt(number, self.ledger.open[number].record)

    def told(self, record: dict, answer: Answer) -> dict:
        """What an answer says, for the journal."""
        if record["op"] in ("upload", "replace", "copy"):
            return {"files": [answer.json()], "etag": answer.headers.get("etag")}
        if record["op"] == "tus":
            return {"files": [self.look(answer.headers["box-file-id"], record["name"])]}
        if "batch" in record:
            statuses = [item["status"] for item in answer.json()["items"]]
            if statuses != [204] * len(record["ids"]):
                return {"files": [None for _ in record["ids"]], "statuses": statuses}
        if answer.status == 204 or "batch" in record:
            return {"files": [None for _ in record["ids"]]}
        return {"files": [answer.json()]}

    def body(self, record: dict) -> Body | bytes | None:
        """The bytes that a request sends: from its own seed, so that a second try sends the same."""
        if record["op"] in ("upload", "cut", "replace"):
            content = bytes_of(record)
            head, tail = form_frame(record) if record["way"] == "form" else (b"", b"")
            if record["way"] == "raw" and record["op"] != "cut" and len(content) <= PIECE:
                return content
            pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
            if record["way"] == "chunked" and len(content) <= PIECE:
                pieces = [content[: len(content) // 2], content[len(content) // 2 :]]
            pieces = [piece for piece in (head, *pieces, tail) if piece]
            limit = len(head) + len(content) // 2 if record["op"] == "cut" else None
            return Body(pieces, record["pause"], limit)
        if record["op"] == "import":
            lines = [
                {
                    "url": f"{self.fetched_from}/{item['seed']}/{item['size']}/{item['pause']}",
                    **{field: item[field] for field in ("name", "metadata", "size", "sha256")},
                }
                for item in record["items"]
            ]
            return "\n".join(json.dumps(line) for line in lines).encode()
        if record["op"] == "copy":
            return json.dumps({"name": record["name"], "metadata": record["metadata"]}).encode()
        if record["op"] == "patch":
            return json.dumps({"name": record["name"], "metadata": record["metadata"]}).encode()
        if "batch" in record:
            return json.dumps({"ids": record["ids"], "permanent": record["op"] == "remove"}).encode()
        return None

    def send(self, record: dict, body: Body | bytes | None) -> Answer:
        headers: dict[str, str] = {}
        if record.get("key"):
            headers["Idempotency-Key"] = record["key"]
        way = record.get("way")
        if way == "form":
            headers["Content-Type"] = "multipart/form-data; boundary=" + boundary(record)
        elif record["op"] == "import":
            headers["Content-Type"] = "application/x-ndjson"
        elif way is not None:
            headers["Content-Type"] = record["content_type"]
        elif body is not None:
            headers["Content-Type"] = "application/json"
        if isinstance(body, Body) and way != "chunked":
            # Else http.client sends it in chunks, without a length.
            headers["Content-Length"] = str(sum(len(piece) for piece in body.pieces))
        match record["op"]:
            case "upload" | "cut":
                path = "/v1/files"
                if way != "form":
                    query = {"name": record["name"], "metadata": json.dumps(record["metadata"])}
                    if record["declare"]:
                        query["sha256"] = record["sha256"]
                    path += "?" + urllib.parse.urlencode(query)
                return self.api.call("POST", path, body, headers)
            case "copy":
                return self.api.call("POST", f"/v1/files/{record['from']}/copy", body, headers)
            case "import":
                return self.api.call("POST", "/v1/imports", body, headers)
            case "tus":
                return self.tus(record)
        if "batch" in record:
            return self.api.call("POST", "/v1/files/batch-delete", body, headers)
        path = f"/v1/files/{record['ids'][0]}"
        match record["op"]:
            case "replace":
                return self.api.call("PUT", f"{path}/content", body, headers)
            case "patch":
                return self.api.call("PATCH", path, body, headers)
            case "trash":
                return self.api.call("DELETE", path)
            case "remove":
                return self.api.call("DELETE", f"{path}?permanent=true")
            case "restore":
                return self.api.call("POST", f"{path}/restore")
            case "revert":
                return self.api.call("POST", f"{path}/versions/{record['version']}/restore")
        raise ValueError(f"no such request: {record}")

    # --- tus

    def tus(self, record: dict) -> Answer:
        """An upload in several requests, from where an earlier try has left it. The last answer: the one that
        names the file, or the one that ends this try."""
        try:
            answer = self.begin(record)
            path = answer.headers.get("location")
            hang_ups, until = list(record["hang_ups"]), 0.0
            content = bytes_of(record)
            while 200 <= answer.status < 300 and "box-file-id" not in answer.headers:
                at = int(answer.headers["upload-offset"])
                end = min(at + record["piece"], len(content))
                hangs_up = bool(hang_ups) and hang_ups[0] < end
                try:
                    answer = self.patch(record, path, content[at:end], at, hangs_up)
                except Cut:
                    self.api.close()
                    hang_ups.pop(0)
                    until = time.monotonic() + GIVES_WAY_WITHIN
                    answer = self.head(path)
                if answer.status in (409, 423) and time.monotonic() < until:
                    # It may not have noticed yet, or only since HEAD was answered.
                    time.sleep(0.1)
                    answer = self.head(path)
            return answer
        except ConnectionRefusedError as error:
            # Of an upload that has begun this says nothing.
            raise ConnectionError(str(error)) from error

    def begin(self, record: dict) -> Answer:
        """With its key, so that an upload that was begun already is found again."""
        said = {"filename": record["name"], "filetype": record["content_type"], "metadata": json.dumps(record["metadata"])}
        if record["declare"]:
            said["sha256"] = record["sha256"]
        pairs = (f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in said.items())
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(record["size"]),
            "Upload-Metadata": ",".join(pairs),
            "Idempotency-Key": record["key"],
        }
        return self.api.call("POST", "/v1/uploads/tus", b"", headers)

    def head(self, path: str) -> Answer:
        return self.api.call("HEAD", path, None, {"Tus-Resumable": "1.0.0"})

    def patch(self, record: dict, path: str, piece: bytes, at: int, hangs_up: bool) -> Answer:
        headers = {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(piece)),
            "Upload-Offset": str(at),
        }
        if record["checked"]:
            headers["Upload-Checksum"] = "sha1 " + base64.b64encode(hashlib.sha1(piece).digest()).decode()
        step = max(1, min(PIECE, len(piece) // 4))
        pieces = [piece[start : start + step] for start in range(0, len(piece), step)]
        return self.api.call("PATCH", path, Body(pieces, record["pause"], len(piece) // 2 if hangs_up else None), headers)

    def look(self, identity: Optional[str], name: str) -> Optional[dict]:
        """The service's JSON of a file, by its id or else its name; None: there is none."""
        until = time.monotonic() + READY_WITHIN
        while True:
            try:
                if identity is not None:
                    answer = self.api.call("GET", f"/v1/files/{identity}")
                    if answer.status == 404:
                        return None
                    if answer.status == 200:
                        return answer.json()
                else:
                    answer = self.api.call("GET", "/v1/files?" + urllib.parse.urlencode({"name": name}))
                    if answer.status == 200:
                        found = answer.json()["items"]
                        return found[0] if found else None
                problem = answer.problem()
            except (OSError, http.client.HTTPException) as error:
                self.api.close()
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() > until:
                raise Late(f"{identity or name} could not be looked at: {problem}")
            time.sleep(0.1)

    # --- what to do next

    def choose(self) -> None:
        """One request, by chance."""
        chance, busy = self.random, self.ledger.busy()
        free = [file for identity, file in self.ledger.files.items() if identity not in busy]
        live = [file for file in free if not file.trashed]
        trashed = [file for file in free if file.trashed]
        kept = sum(content.size for file in self.ledger.files.values() for content in file.contents())
        # The fuller it is, the more goes.
        full = len(self.ledger.files) > FILES or kept > BYTES
        choices: list[tuple[float, str]] = [(1 if full else 10, "upload"), (0.5, "cut"), (0.1 if full else 1, "import")]
        choices += [(0.2 if full else 3, "tus")]
        if live:
            choices += [(4, "replace"), (4, "patch"), (3, "trash"), (1 if full else 3, "copy")]
        if len(live) > 3:
            choices += [(9 if full else 2, "remove"), (1, "batch")]
        if trashed:
            choices += [(2, "restore"), (6 if full else 1, "remove trashed")]
        kept_versions = [file for file in live if file.earlier]
        if kept_versions:
            choices += [(2, "revert")]
        weights = [weight for weight, _ in choices]
        match chance.choices([choice for _, choice in choices], weights)[0]:
            case "upload":
                self.request({"op": "upload", **self.new(), **self.content(True)})
            case "import":
                items = [self.item(index) for index in range(chance.randrange(1, 12))]
                self.request({"op": "import", "items": items, "content_type": origin.TYPE, "key": self.key()})
            case "tus":
                content = {**self.content(True, 3), "way": "tus", "key": self.key()}
                size = content["size"]
                # Three pieces or more, each of them hung up on now and then.
                hang_ups = sorted(chance.randrange(size) for _ in range(chance.choice((0, 0, 1, 2))))
                pieces = {"piece": -(-size // chance.randrange(3, 9)), "checked": chance.random() < 0.3, "hang_ups": hang_ups}
                self.request({"op": "tus", **self.new(), **content, **pieces})
            case "cut":
                self.request({"op": "cut", **self.new(), **self.content(False, 2 * PIECE)})
            case "replace":
                self.request({"op": "replace", "ids": [chance.choice(live).id], **self.content(False)})
            case "patch":
                file = chance.choice(live)
                metadata = {"patched": self.number + 1, f"k{chance.randrange(3)}": chance.randrange(10**6)}
                name = self.new()["name"] if chance.random() < 0.5 else file.name
                self.request({"op": "patch", "ids": [file.id], "name": name, "metadata": metadata})
            case "trash":
                self.request({"op": "trash", "ids": [chance.choice(live).id]})
            case "remove":
                self.request({"op": "remove", "ids": [self.largest(live, full).id]})
            case "remove trashed":
                self.request({"op": "remove", "ids": [self.largest(trashed, full).id]})
            case "restore":
                self.request({"op": "restore", "ids": [chance.choice(trashed).id]})
            case "copy":
                key = {"key": self.key()} if chance.random() < 0.3 else {}
                self.request({"op": "copy", "from": chance.choice(live).id, **self.new(), **key})
            case "revert":
                file = chance.choice(kept_versions)
                version = chance.choice(file.earlier).version
                self.request({"op": "revert", "ids": [file.id], "version": version})
            case "batch":
                # Trashing what is in the trash changes nothing, and is asked for too.
                some = chance.sample(free, min(len(free), chance.randrange(2, 6)))
                kind = chance.choice(("trash", "remove"))
                self.request({"op": kind, "ids": [file.id for file in some], "batch": True})

    def largest(self, files: list[File], full: bool) -> File:
        """One to remove: by chance, or the one that takes the most."""
        if full and self.random.random() < 0.3:
            return max(files, key=File.bytes)
        return self.random.choice(files)

    def new(self) -> dict:
        """The name and metadata of a file that nothing else has."""
        number = self.number + 1
        return {"name": f"{self.name}/{number}", "metadata": {"writer": self.name, "number": number}}

    def item(self, index: int) -> dict:
        """Of an import: a file that nothing else has, and where it comes from."""
        chance = self.random
        size, seed = chance.choice((8, chance.randrange(8, 64 * 1024), chance.randrange(8, MIB))), chance.getrandbits(64)
        return {
            "name": f"{self.name}/{self.number + 1}/{index}",
            "metadata": {"writer": self.name, "item": index},
            "seed": seed,
            "size": size,
            "sha256": hashlib.sha256(origin.bytes_of(seed, size)).hexdigest(),
            "pause": chance.choice((0, 0, 20, 500)),
        }

    def key(self) -> str:
        return f"{self.name}-{self.number + 1}"

    def content(self, creates: bool, least: int = 0) -> dict:
        """Bytes, and how they are sent."""
        chance = self.random
        way = chance.choices(("raw", "chunked", "form"), (5, 3, 3 if creates else 0))[0]
        size = chance.choices(
            (0, chance.randrange(1, 64 * 1024), chance.randrange(MIB, 4 * MIB), self.large - chance.randrange(MIB)),
            (1, 70, 14, 5),
        )[0]
        size, seed = least + size, chance.getrandbits(64)
        content = {
            "way": way,
            "content_type": f"application/x-crash-{chance.randrange(4)}",
            "declare": creates and chance.random() < 0.5,
            "pause": chance.choice((0, 0, 0.002, 0.01)),
            "seed": seed,
            "size": size,
            "sha256": hashlib.sha256(random.Random(seed).randbytes(size)).hexdigest(),
        }
        if creates and chance.random() < 0.4:
            content["key"] = self.key()
        return content


def bytes_of(record: dict) -> bytes:
    """The bytes of a file that a request sends."""
    return random.Random(record["seed"]).randbytes(record["size"])


def boundary(record: dict) -> str:
    return f"crash-{record['seed']:016x}"


def form_frame(record: dict) -> tuple[bytes, bytes]:
    """What stands around the file's bytes in a form."""
    properties = {name: record[name] for name in ("name", "content_type", "metadata")}
    if record["declare"]:
        properties["sha256"] = record["sha256"]
    line = f"--{boundary(record)}"
    head = (
        f'{line}\r\nContent-Disposition: form-data; name="properties"\r\n'
        f"Content-Type: application/json\r\n\r\n{json.dumps(properties)}\r\n"
        f'{line}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode(), f"\r\n{line}--\r\n".encode()


# --- the process ----------------------------------------------------------------------------------


def main(pipe: Connection, parent: int, kind: type, *arguments) -> None:
    """Does what it is told: `work` until something is said, `drain` every key, `quit`."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        writer = kind(*arguments)
        while os.getppid() == parent:
            if not pipe.poll(1.0):
                continue
            match pipe.recv():
                case "work":
                    writer.work(pipe)
                    pipe.recv()
                    writer.settle(all_keys=False)
                case "drain":
                    writer.settle(all_keys=True)
                case _:
                    return
            pipe.send(("idle", (writer.faults, writer.done)))
            writer.faults = []
    except EOFError:
        pass
    except Exception as error:
        how = "late" if isinstance(error, Late) else "error"
        pipe.send((how, str(error) if how == "late" else traceback.format_exc()))


class Process:
    """A writer, as the parent sees it: of a `kind` that is made of `arguments`."""

    def __init__(self, kind: type, name: str, *arguments: object) -> None:
        self.name = name
        self.done: collections.Counter = collections.Counter()
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=main,
            args=(theirs, os.getpid(), kind, name, *arguments),
            daemon=True,
        )
        self.process.start()
        theirs.close()

    def tell(self, what: str) -> None:
        # One that ended by itself has said why, and `await_idle` reads it.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(what)

    def await_idle(self, within: float) -> Optional[str]:
        """Waits until it has done what it was told; else why it has not."""
        if not self.pipe.poll(within):
            return f"{self.name} did not end what it was at within {within:.0f} s"
        try:
            kind, said = self.pipe.recv()
        except EOFError:
            return f"{self.name} ended by itself"
        if kind != "idle":
            return f"{self.name}: {said}"
        faults, self.done = said
        return "; ".join(faults) or None

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join(10)
