#!/usr/bin/env python3
"""A trial against something real: a directory goes into the service and comes back.

Uploads every regular file below --directory, named by its relative path, from several client
processes at once and alternately raw and as multipart/form-data; lists all back by keyset pages,
and by prefixes, and compares; fetches each and compares size and SHA-256, some by
ranges; deletes all, half of them by way of the trash; waits until the service and its store are
empty; stops the server and runs `box fsck`.

Names that the contract does not allow (not UTF-8, control characters, over 1,024 bytes) are sent
too: the service has to refuse them with a problem document, which is reported.

Exit status 0 if nothing differed, 1 with every mismatch printed, 2 if it could not be done.
"""

from __future__ import annotations

import base64
import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import http.client
import json
import mimetypes
import multiprocessing
import os
import random
import secrets
import signal
import stat
import time
import unicodedata
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import common
from common import MIB, Answer, Api, Failure, Server, note

SMALL = MIB
"""Up to this many bytes a file is read whole, and half of them go up with a declared SHA-256."""

CHUNK = 256 * 1024
"""The bytes read and sent at once of a larger file."""

EMPTY_WITHIN = 60.0
"""How long the service may go on listing files after the last delete, in seconds."""

PHASE_WITHIN = 7200.0
"""How long a phase may take, in seconds."""


@dataclasses.dataclass
class Item:
    """One file of the tree, and what became of it. `name` is the relative path as bytes;
    `size` and `sha256` are of the bytes that were sent."""

    index: int
    name: bytes
    allowed: bool
    size: int = 0
    sha256: str = ""
    id: str = ""

    def shown(self) -> str:
        """For a line of output: ASCII, escaped, and short."""
        text = ascii(self.name.decode("utf-8", "surrogateescape"))[1:-1]
        return text if len(text) <= 240 else f"{text[:100]}…{text[-100:]} ({len(self.name)} bytes)"

    def text(self) -> str:
        return self.name.decode()

    def multipart(self) -> bool:
        return self.index % 2 == 1

    def by_trash(self) -> bool:
        # Not in step with multipart(), so that all four combinations occur.
        return self.index // 2 % 2 == 1


@dataclasses.dataclass
class Outcome:
    """What a step brought: the item as it is now, and what was wrong. `refused` is the service's
    own answer to a name that is not allowed; `skipped` why the file could not be read."""

    item: Item
    faults: list[str] = dataclasses.field(default_factory=list)
    refused: str = ""
    skipped: str = ""

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.item.shown()}: {text}")


class Changed(Exception):
    """The file shrank, grew or went away while it was read."""


# --- the tree -----------------------------------------------------------------------------------


def name_allowed(name: bytes) -> bool:
    """The contract: 1 to 1,024 bytes of UTF-8, no control characters, no empty, `.` or `..`
    segment."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return False
    if not 1 <= len(name) <= 1024 or any(unicodedata.category(c) == "Cc" for c in text):
        return False
    return not any(segment in ("", ".", "..") for segment in text.split("/"))


def scan(top: bytes) -> tuple[list[Item], dict[str, int]]:
    """Every regular file below `top`, by name; and how many of what else was passed over.
    Symbolic links are not followed."""
    items: list[Item] = []
    passed: dict[str, int] = {}

    def pass_over(what: str) -> None:
        passed[what] = passed.get(what, 0) + 1

    def unreadable(_: OSError) -> None:
        pass_over("unreadable directories")

    for directory, below, files in os.walk(top, onerror=unreadable):
        below.sort()
        for link in below:
            if os.path.islink(os.path.join(directory, link)):
                pass_over("symbolic links")
        for file in sorted(files):
            path = os.path.join(directory, file)
            try:
                status = os.lstat(path)
            except OSError:
                pass_over("files that went away")
                continue
            if stat.S_ISREG(status.st_mode):
                name = os.path.relpath(path, top)
                items.append(Item(len(items), name, name_allowed(name), status.st_size))
            else:
                pass_over("symbolic links" if stat.S_ISLNK(status.st_mode) else "special files")
    return items, passed


# --- the clients --------------------------------------------------------------------------------


@dataclasses.dataclass
class Client:
    """One client process: its connection and what it works on."""

    api: Api
    top: bytes


CLIENT: Optional[Client] = None
"""This process's client, set in the children only."""


def become_client(url: str, token: str, top: bytes) -> None:
    """Makes a worker process a client."""
    global CLIENT
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    CLIENT = Client(Api(url, token), top)


Step = Callable[[Client, Item], Outcome]


def take_step(step: Step, item: Item) -> Outcome:
    """Runs a step in a client; what goes wrong on the way is an outcome too."""
    try:
        return step(CLIENT, item)
    except (Failure, OSError, http.client.HTTPException, ValueError, KeyError) as error:
        CLIENT.api.close()
        outcome = Outcome(item)
        outcome.fault(f"{step.__name__}: {type(error).__name__}: {error}")
        return outcome


def phase(server: Server, top: bytes, clients: int, step: Step, items: Sequence[Item]) -> list[Outcome]:
    """Runs a step over the items in several client processes, in an order that is shuffled but
    the same in every run."""
    order = list(items)
    random.Random(1).shuffle(order)
    pool = concurrent.futures.ProcessPoolExecutor(
        clients,
        mp_context=multiprocessing.get_context("fork"),
        initializer=become_client,
        initargs=(server.url, server.token(), top),
    )
    ended = False
    try:
        steps = pool.map(take_step, [step] * len(order), order, timeout=PHASE_WITHIN, chunksize=8)
        outcomes = sorted(steps, key=lambda outcome: outcome.item.index)
        ended = True
        return outcomes
    except concurrent.futures.process.BrokenProcessPool as broken:
        raise Failure("a client process ended by itself") from broken
    except concurrent.futures.TimeoutError as late:
        raise Failure(f"{step.__name__} did not end within {PHASE_WITHIN:.0f} s") from late
    finally:
        # Python waits for the pool's processes when it exits, so one that hangs is ended here.
        processes = [] if ended else list((pool._processes or {}).values())
        for process in processes:
            process.terminate()
        pool.shutdown(wait=ended, cancel_futures=True)


# --- uploads ------------------------------------------------------------------------------------


class Body:
    """The bytes of a request: a head, a file of a known size, a tail; hashed as they are sent."""

    def __init__(self, head: bytes, path: bytes, size: int, tail: bytes) -> None:
        self.head, self.path, self.size, self.tail = head, path, size, tail
        self.digest = hashlib.sha256()

    def length(self) -> int:
        return len(self.head) + self.size + len(self.tail)

    def __iter__(self) -> Iterator[bytes]:
        if self.head:
            yield self.head
        left = self.size
        with open(self.path, "rb", buffering=0) as file:
            while left > 0:
                block = file.read(min(CHUNK, left))
                if not block:
                    raise Changed("it shrank while it was sent")
                self.digest.update(block)
                left -= len(block)
                yield block
        if self.tail:
            yield self.tail


def metadata_of(item: Item) -> dict:
    """Metadata that tells the item."""
    return {"index": item.index, "way": "multipart" if item.multipart() else "raw"}


def media_type(item: Item) -> str:
    """By the name's ending."""
    guessed, _ = mimetypes.guess_type(item.name.decode("utf-8", "replace").rpartition("/")[2])
    return guessed or "application/octet-stream"


def json_bytes(value: object) -> bytes:
    """JSON whose strings may hold bytes that are not UTF-8, as they are: such a name has to
    reach the service unchanged."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


def multipart_frame(item: Item, sha256: str) -> tuple[str, bytes, bytes]:
    """The content type, and the bytes around the file's own."""
    boundary = f"box-{secrets.token_hex(12)}"
    properties = {
        "name": item.name.decode("utf-8", "surrogateescape"),
        "content_type": media_type(item),
        "metadata": metadata_of(item),
    }
    if sha256:
        properties["sha256"] = sha256
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="properties"\r\n'
        "Content-Type: application/json\r\n\r\n"
    ).encode()
    head += json_bytes(properties)
    head += (
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    return f"multipart/form-data; boundary={boundary}", head, f"\r\n--{boundary}--\r\n".encode()


def send(client: Client, item: Item, path: bytes, size: int, declared: str) -> tuple[Answer, str]:
    """The upload's answer, and the SHA-256 of the bytes sent. `declared`: a SHA-256 for the
    service to check, or empty."""
    if item.multipart():
        content_type, head, tail = multipart_frame(item, declared)
        target, headers = "/v1/files", {"Content-Type": content_type}
    else:
        head = tail = b""
        target = common.upload_path(item.name) + "&metadata=" + json.dumps(
            metadata_of(item), separators=(",", ":")
        ).translate({ord(c): f"%{ord(c):02X}" for c in '{}":,'})
        headers = {"Content-Type": media_type(item)}
        if declared:
            value = base64.b64encode(bytes.fromhex(declared)).decode()
            headers["Repr-Digest"] = f"sha-256=:{value}:"
    body = Body(head, path, size, tail)
    headers["Content-Length"] = str(body.length())
    if size <= SMALL:
        # In one piece, as a client would send what it has at hand.
        return client.api.call("POST", target, b"".join(body), headers), body.digest.hexdigest()
    return client.api.call("POST", target, body, headers), body.digest.hexdigest()


def upload(client: Client, item: Item) -> Outcome:
    """Sends one file; a name that is not allowed with an empty body."""
    outcome = Outcome(item)
    if not item.allowed:
        answer, _ = send(client, item, b"/dev/null", 0, "")
        outcome.refused = answer.problem()
        if not 400 <= answer.status < 500 or "not a problem document" in outcome.refused:
            outcome.fault(f"a name that is not allowed got {outcome.refused}")
        if answer.status == 201:
            item.id = answer.json()["id"]
        return outcome
    path = os.path.join(client.top, item.name)
    try:
        item.size = os.stat(path).st_size
        declared = ""
        if item.size <= SMALL and item.index % 4 >= 2:
            with open(path, "rb") as file:
                declared = hashlib.sha256(file.read()).hexdigest()
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        outcome.skipped = error.strerror or str(error)
        return outcome
    try:
        answer, item.sha256 = send(client, item, path, item.size, declared)
    except Changed as changed:
        client.api.close()
        outcome.skipped = str(changed)
        return outcome
    if answer.status == 422 and declared and declared != item.sha256:
        outcome.skipped = "it changed while it was sent"
        return outcome
    if answer.status != 201:
        outcome.fault(f"upload {metadata_of(item)['way']}, {item.size} bytes: {answer.problem()}")
        return outcome
    file = answer.json()
    item.id = file["id"]
    compare_file(outcome, "upload", file)
    if answer.headers.get("location", "").rpartition("/")[2] != item.id:
        outcome.fault(f"Location is {answer.headers.get('location')!r}, the id {item.id}")
    return outcome


def compare_file(outcome: Outcome, where: str, file: dict) -> None:
    """A File as the service shows it against what was sent."""
    item = outcome.item
    expected = {
        "id": item.id,
        "name": item.text(),
        "size": item.size,
        "sha256": item.sha256,
        "metadata": metadata_of(item),
        "trashed_at": None,
    }
    for field, value in expected.items():
        if file.get(field) != value:
            outcome.fault(f"{where}: {field} is {file.get(field)!r}, sent {value!r}")


# --- lists --------------------------------------------------------------------------------------


def compare_list(api: Api, items: dict[str, Item], expected: set[str], what: str, **query: object) -> tuple[int, list[str]]:
    """Reads a list to its end: the pages it took, and how it differs from the expected ids."""
    faults: list[str] = []
    seen: set[str] = set()
    names: list[bytes] = []
    pages = 0
    for page in api.pages(**query):
        pages += 1
        if len(page["items"]) > int(str(query["limit"])):
            faults.append(f"{what}: {len(page['items'])} items on a page of {query['limit']}")
        for file in page["items"]:
            if file["id"] in seen:
                faults.append(f"{what}: {file['name']!r} ({file['id']}) is listed twice")
            seen.add(file["id"])
            names.append(file["name"].encode())
            if file["id"] in items and query.get("trashed") != "true":
                outcome = Outcome(items[file["id"]])
                compare_file(outcome, what, file)
                faults += outcome.faults
    if query.get("sort") == "name" and names != sorted(names):
        faults.append(f"{what}: not in the order of the names' bytes")
    shown = {identity: item.shown() for identity, item in items.items()}
    faults += [f"{what}: {shown[identity]} is missing" for identity in sorted(expected - seen)]
    faults += [f"{what}: {shown.get(i, i)} does not belong there" for i in sorted(seen - expected)]
    return pages, faults


def some_prefixes(items: Sequence[Item], count: int = 24) -> list[str]:
    """Folders of every depth, whole names, and names cut within a segment; the same ones in
    every run. `%` and `_`, which SQL's LIKE would take as wildcards, come first."""
    names = [item.text() for item in items]
    chance = random.Random(2)
    special = [name for name in names if "%" in name or "_" in name]
    chosen: list[str] = ["no such prefix/"]
    for name in chance.sample(special, min(4, len(special))):
        chosen.append(name[: max(name.find("%"), name.find("_")) + 1])
    for name in chance.sample(names, min(count, len(names))):
        segments = name.split("/")
        depth = chance.randrange(len(segments))
        chosen.append(chance.choice((
            "/".join(segments[:depth]) + "/" if depth else name,
            name,
            name[: chance.randrange(1, len(name) + 1)],
        )))  # fmt: skip
    return list(dict.fromkeys(chosen))[:count]


def list_all(server: Server, stored: list[Item]) -> tuple[str, list[str]]:
    """All lists of a full service; a line about them and the mismatches."""
    api = Api(server.url, server.token())
    items = {item.id: item for item in stored}
    pages, faults = 0, []
    # Several pages even of a small tree: what pages lose, they lose at their seams.
    few = max(1, min(100, len(items) // 7))

    def compare(what: str, expected: set[str], **query: object) -> None:
        nonlocal pages
        taken, wrong = compare_list(api, items, expected, what, **query)
        pages += taken
        faults.extend(wrong)

    compare("list", set(items), limit=few)
    compare("list by name", set(items), limit=1000, sort="name")
    compare("list by name, descending", set(items), limit=few + 1, sort="-name")
    compare("trash", set(), limit=100, trashed="true")
    prefixes = some_prefixes(stored)
    for prefix in prefixes:
        expected = {item.id for item in stored if item.text().startswith(prefix)}
        compare(f"list of {prefix!r}", expected, limit=few, prefix=prefix, sort="name")
    api.close()
    return f"{pages} pages, {len(prefixes)} prefixes", faults


# --- fetches ------------------------------------------------------------------------------------


def drain(response: http.client.HTTPResponse, digest) -> int:
    """Reads an answer to its end into a digest; its bytes."""
    length = 0
    while block := response.read(CHUNK):
        digest.update(block)
        length += len(block)
    return length


def fetch(client: Client, item: Item) -> Outcome:
    """Downloads one file and compares it; every fifth also in ranges."""
    outcome = Outcome(item)
    path = f"/v1/files/{item.id}/content"
    digest = hashlib.sha256()
    response = client.api.open("GET", path)
    length = drain(response, digest)
    if (response.status, length, digest.hexdigest()) != (200, item.size, item.sha256):
        outcome.fault(
            f"fetch: {response.status}, {length} bytes, SHA-256 {digest.hexdigest()}; "
            f"sent {item.size} bytes, {item.sha256}"
        )
    if item.index % 5 == 0:
        fetch_ranges(client, outcome, path)
    return outcome


def fetch_ranges(client: Client, outcome: Outcome, path: str) -> None:
    """The file in up to three ranges, of which the last is open or a suffix, put together again;
    of an empty file, that there is no range."""
    item, size = outcome.item, outcome.item.size
    if size == 0:
        answer = client.api.call("GET", path, None, {"Range": "bytes=0-0"})
        if answer.status != 416:
            outcome.fault(f"a range of an empty file: {answer.status}, expected 416")
        return
    cuts = sorted({0, size // 3, size - size // 4 - 1, size})
    digest = hashlib.sha256()
    for start, end in zip(cuts, cuts[1:]):
        wanted = f"bytes={start}-{end - 1}"
        if end == size:
            wanted = f"bytes={start}-" if item.index % 2 else f"bytes=-{size - start}"
        response = client.api.open("GET", path, None, {"Range": wanted})
        length = drain(response, digest)
        told = response.getheader("Content-Range")
        if (response.status, length, told) != (206, end - start, f"bytes {start}-{end - 1}/{size}"):
            outcome.fault(f"{wanted}: {response.status}, {length} bytes, Content-Range {told!r}")
            return
    if digest.hexdigest() != item.sha256:
        outcome.fault("the ranges put together have another SHA-256")


# --- deletes ------------------------------------------------------------------------------------


def expect(client: Client, outcome: Outcome, status: int, method: str, path: str) -> Answer:
    """One request whose status has to be this one."""
    answer = client.api.call(method, path)
    if answer.status != status:
        outcome.fault(f"{method} {path.replace(outcome.item.id, '{id}')}: {answer.problem()}, expected {status}")
    return answer


def trash(client: Client, item: Item) -> Outcome:
    """To the trash: the JSON stays, the content is gone."""
    outcome, path = Outcome(item), f"/v1/files/{item.id}"
    expect(client, outcome, 204, "DELETE", path)
    answer = expect(client, outcome, 200, "GET", path)
    if answer.status == 200 and answer.json()["trashed_at"] is None:
        outcome.fault("trashed, and trashed_at is null")
    expect(client, outcome, 410, "GET", f"{path}/content")
    return outcome


def remove(client: Client, item: Item) -> Outcome:
    """For good: nothing is there any more."""
    outcome, path = Outcome(item), f"/v1/files/{item.id}"
    expect(client, outcome, 204, "DELETE", f"{path}?permanent=true")
    expect(client, outcome, 404, "GET", path)
    expect(client, outcome, 404, "GET", f"{path}/content")
    return outcome


# --- the end ------------------------------------------------------------------------------------


def wait_until(empty: Callable[[], int], within: float) -> tuple[int, float]:
    """Asks twice a second until 0 is left: what is left, and the seconds it took."""
    start = time.monotonic()
    while True:
        left, waited = empty(), time.monotonic() - start
        if left == 0 or waited > within:
            return left, waited
        time.sleep(0.5)


def files_left(server: Server) -> int:
    """The files that the service still lists on two first pages: live and trashed."""
    api = Api(server.url, server.token())
    try:
        left = 0
        for trashed in ("", "&trashed=true"):
            left += len(api.expect(200, "GET", f"/v1/files?limit=1000{trashed}").json()["items"])
        return left
    finally:
        api.close()


def usage_faults(server: Server) -> list[str]:
    """GET /v1/usage of an emptied tenant; nothing where this version has no such route."""
    api = Api(server.url, server.token())
    answer = api.call("GET", "/v1/usage")
    api.close()
    if answer.status == 404:
        note("this version has no /v1/usage")
        return []
    if answer.status != 200:
        return [f"usage: {answer.problem()}"]
    usage = answer.json()
    return [f"usage: {key} is {usage[key]}, expected 0" for key in ("bytes", "files") if usage[key]]


def fsck_faults(server: Server, when: str, keys: Optional[int], *options: str) -> tuple[str, list[str]]:
    """`box fsck`: a line about it, and what is wrong. `keys`: how many names the store has."""
    code, found = server.fsck(*options)
    faults = [f"fsck {when}: {json.dumps(problem, sort_keys=True)}" for problem in found["problems"]]
    if code != 0:
        faults.append(f"fsck {when}: exit status {code}")
    if keys is not None and found["keys"] != keys:
        faults.append(f"fsck {when}: {found['keys']} keys, expected {keys}")
    line = f"exit status {code}, {found['objects']} objects, {found['keys']} keys, {len(found['problems'])} problems"
    return line, faults


class Trial:
    """The phases in their order, on one pair; `mismatches` grows on the way."""

    def __init__(self, given, server: Server, items: list[Item]) -> None:
        self.given, self.server, self.items = given, server, items
        self.top = os.fsencode(given.directory)
        self.mismatches: list[str] = []
        self.lines: list[tuple[str, str, str]] = []

    def line(self, what: str, text: str, seconds: float, faults: Sequence[str] = ()) -> None:
        """Reports a phase as it ends."""
        self.mismatches += faults
        self.lines.append((what, f"{seconds:.1f}", text + (f"; {len(faults)} MISMATCHES" if faults else "")))
        note(f"{what}: {text} ({seconds:.1f} s)")

    def each(self, step: Step, items: Sequence[Item], text: Callable[[list[Outcome]], str]) -> list[Outcome]:
        """A phase of client processes."""
        start = time.monotonic()
        outcomes = phase(self.server, self.top, self.given.clients, step, items)
        faults = [fault for outcome in outcomes for fault in outcome.faults]
        self.line(step.__name__, text(outcomes), time.monotonic() - start, faults)
        return outcomes

    def upload(self) -> list[Item]:
        """Everything up; gives what is stored. Prints refusals and files that were passed over."""

        def text(outcomes: list[Outcome]) -> str:
            stored = [o.item for o in outcomes if o.item.id]
            raw = sum(not item.multipart() for item in stored)
            refused = sum(bool(o.refused) for o in outcomes)
            skipped = sum(bool(o.skipped) for o in outcomes)
            size = sum(item.size for item in stored)
            return (
                f"{len(stored)} stored ({raw} raw, {len(stored) - raw} multipart), "
                f"{size / MIB:.1f} MiB, {refused} refused, {skipped} skipped"
            )

        outcomes = self.each(upload, self.items, text)
        for outcome in outcomes:
            if outcome.refused:
                print(f"  refused: {outcome.item.shown()}: {outcome.refused}")
            if outcome.skipped:
                print(f"  skipped: {outcome.item.shown()}: {outcome.skipped}")
        return [outcome.item for outcome in outcomes if outcome.item.id]

    def full(self, stored: list[Item]) -> None:
        """While everything is there: the lists, every byte, and fsck beside the live server."""
        start = time.monotonic()
        text, faults = list_all(self.server, stored)
        self.line("list", text, time.monotonic() - start, faults)
        self.each(fetch, stored, lambda o: f"{len(o)} fetched, {sum(x.item.index % 5 == 0 for x in o)} by ranges too")
        start = time.monotonic()
        text, faults = fsck_faults(self.server, "beside the server", None, "--verify-checksums", "--rate", "0")
        self.line("fsck, live", text, time.monotonic() - start, faults)

    def empty(self, stored: list[Item]) -> None:
        """Everything out, until nothing is left but the marker."""
        trashed = [item for item in stored if item.by_trash()]
        self.each(trash, trashed, lambda o: f"{len(o)} to the trash")
        api = Api(self.server.url, self.server.token())
        start = time.monotonic()
        everything = {item.id: item for item in stored}
        in_trash = {item.id for item in trashed}
        pages, faults = compare_list(api, everything, in_trash, "trash", limit=100, trashed="true")
        more, wrong = compare_list(api, everything, set(everything) - in_trash, "list beside the trash", limit=100)
        api.close()
        self.line("list", f"{pages + more} pages of trash and rest", time.monotonic() - start, faults + wrong)
        self.each(remove, stored, lambda o: f"{len(o)} removed for good")
        left, seconds = wait_until(lambda: files_left(self.server), EMPTY_WITHIN)
        faults = [f"the service still lists {left} files"] if left else usage_faults(self.server)
        self.line("no files", f"{left} left", seconds, faults)
        # The reaper's own pace; what is left is judged after the stop.
        left, seconds = wait_until(lambda: len(self.server.site.stored()), self.given.reap_within)
        self.line("no objects", f"{left} left", seconds)

    def stopped(self) -> None:
        """After the server's end: fsck, and the store seen without the service."""
        start = time.monotonic()
        self.server.stop()
        faults = [] if self.server.exit_code == 0 else [f"box serve ended with {self.server.exit_code} after SIGTERM"]
        self.line("stop", f"exit status {self.server.exit_code}", time.monotonic() - start, faults)
        start = time.monotonic()
        text, faults = fsck_faults(self.server, "after the stop", 0)
        self.line("fsck", text, time.monotonic() - start, faults)
        left = self.server.site.stored()
        self.line("store", f"{len(left)} names but the marker", 0.0, [f"left in the store: {name}" for name in left])


def trial(given, pair: str, work: Path, items: list[Item]) -> list[str]:
    """The whole trial on one pair; the mismatches."""
    with common.site(pair, work) as at, Server(given.box, at) as server:
        run = Trial(given, server, [dataclasses.replace(item) for item in items])
        try:
            stored = run.upload()
            run.full(stored)
            run.empty(stored)
            run.stopped()
        except Failure as failure:
            run.mismatches.append(f"the trial ended early: {failure}")
            print(f"the server's log ends:\n{server.log_tail()}")
        print(f"\n{at.title()}, {given.clients} clients")
        print(common.table(("phase", "seconds", "what"), run.lines))
    for mismatch in run.mismatches:
        print(f"MISMATCH {mismatch}")
    return run.mismatches


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--directory", type=Path, required=True, help="the tree; it is only read")
    arguments.add_argument("--clients", type=common.count_argument, default=4, help="default: %(default)s")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    arguments.add_argument(
        "--reap-within",
        type=float,
        default=120.0,
        help="how long deleted bytes may stay in the store, in seconds (default: %(default)s)",
    )
    given = arguments.parse_args()
    if not given.directory.is_dir():
        raise Failure(f"--directory {given.directory} is no directory")
    items, passed = scan(os.fsencode(given.directory))
    if not items:
        raise Failure(f"--directory {given.directory} has no regular file")
    others = ", ".join(f"{count} {what}" for what, count in sorted(passed.items()))
    total = sum(item.size for item in items)
    print(f"{given.directory}: {len(items)} regular files, {total / MIB:.1f} MiB; passed over: {others or 'nothing'}")
    refusable = sum(not item.allowed for item in items)
    print(f"{refusable} names that the contract does not allow; {common.machine()}")
    mismatches: list[str] = []
    with common.workspace(given.dir, 2 * total) as work:
        for pair in common.PAIRS if given.pair == "both" else (given.pair,):
            mismatches += trial(given, pair, work, items)
    print(f"{'FAIL' if mismatches else 'PASS'}: {len(mismatches)} mismatches")
    return 1 if mismatches else 0


if __name__ == "__main__":
    common.run(main)
