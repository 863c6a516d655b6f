"""What the service must hold, told from a writer's journal alone.

A journal is a file of JSON lines. Before a request: `{"n", "op", …}`, all that is needed to know what
it will have done. After it, one of

    {"n", "ack": status, "files": [File or null, …], "etag"}   it is done
    {"n", "doubt": why}      the answer did not come, or said 503: done or not, but wholly
    {"n", "unsent": why}     it can't have been done: not all of it was sent
    {"n", "refused": status, "problem"}   4xx, which no request of these may get
    {"n", "look": [File or null, …]}      what was found later of what was in doubt
    {"n", "accepted": id}    an import will end, with a file for each of its items; "ack" when it has

and where it is sent again with the same key, `{"n", "again", "found": whether its file was there}`.

A journal that ends with a request has it in doubt. `Ledger` reads the lines; the writer does
so while it writes them, and the check reads the file anew.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator, Optional

KEEP = 2
"""Earlier contents that the service is configured to keep (versions.keep)."""


@dataclasses.dataclass(frozen=True)
class Content:
    """Bytes that were sent once. `origin` tells them apart from equal ones: copies and restored
    versions share it, as they share the object in the store. `etag` where an answer told it."""

    origin: str
    version: int
    size: int
    sha256: str
    content_type: str
    etag: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it must be. `id` is None while no answer has told it; `earlier` begins with the newest."""

    id: Optional[str]
    name: str
    metadata: dict
    revision: int
    trashed: bool
    current: Content
    earlier: tuple[Content, ...] = ()

    def differences(self, shown: dict) -> list[str]:
        """What is other in the service's JSON of it."""
        expected = {
            "name": self.name,
            "content_type": self.current.content_type,
            "size": self.current.size,
            "sha256": self.current.sha256,
            "metadata": self.metadata,
            "version": self.current.version,
            "revision": self.revision,
        }
        if self.id is not None:
            expected["id"] = self.id
        found = [
            f"{field} is {shown.get(field)!r}, must be {value!r}"
            for field, value in expected.items()
            if shown.get(field) != value
        ]
        if (shown.get("trashed_at") is not None) != self.trashed:
            found.append(f"trashed_at is {shown.get('trashed_at')!r}, must {'not ' * self.trashed}be null")
        return found

    def contents(self) -> Iterator[Content]:
        yield self.current
        yield from self.earlier

    def bytes(self) -> int:
        return sum(content.size for content in self.contents())

    def changed(self, **fields: object) -> "File":
        return dataclasses.replace(self, revision=self.revision + 1, **fields)

    def with_content(self, content: Content) -> "File":
        earlier = (self.current, *self.earlier)[:KEEP]
        return self.changed(current=content, earlier=earlier)


@dataclasses.dataclass
class Target:
    """One file that a request is about: as it is without the request, and as it is with it. A file
    that the request makes has no id yet, and is told by its name, which no other file ever has."""

    before: Optional[File]
    after: Optional[File]

    @property
    def id(self) -> Optional[str]:
        return self.before.id if self.before else None

    @property
    def name(self) -> str:
        return (self.before or self.after).name

    def judge(self, shown: Optional[dict]) -> tuple[Optional[File], list[str]]:
        """The state that the service shows, and why it is neither of the two."""
        faults: list[str] = []
        for state in (self.after, self.before):
            if (state is None) != (shown is None):
                faults.append("is there" if shown else "is gone")
                continue
            if shown is None:
                return None, []
            wrong = state.differences(shown)
            if not wrong:
                return dataclasses.replace(state, id=shown["id"]), []
            faults.append("; ".join(wrong))
        return None, ["neither done (" + ") nor not done (".join(faults) + ")"]


@dataclasses.dataclass
class Request:
    """A request without a known end."""

    record: dict
    targets: list[Target]
    doubted: bool = False
    found: bool = False
    accepted: Optional[str] = None
    """The id of the import that it made."""

    @property
    def key(self) -> Optional[str]:
        return self.record.get("key")


class Ledger:
    """What one journal says. `faults` are answers that no history allows."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.files: dict[str, File] = {}
        self.open: dict[int, Request] = {}
        self.gone: set[str] = set()
        """Ids that were removed for good."""
        self.never: set[str] = set()
        """Names under which nothing was ever made."""
        self.touched: set[str] = set()
        """Ids that something was said of since somebody emptied this."""
        self.faults: list[str] = []
        self.counts = {"acknowledged": 0, "doubt": 0, "happened": 0, "not happened": 0, "retried": 0, "unsent": 0}
        self.acknowledged: dict[str, int] = {}
        """By kind of request."""

    def busy(self) -> set[str]:
        """Ids that a request without a known end is about, or copies from."""
        found = {target.id for request in self.open.values() for target in request.targets if target.id}
        return found | {request.record["from"] for request in self.open.values() if "from" in request.record}

    def read(self, record: dict) -> None:
        """Takes the next line of the journal."""
        number = record["n"]
        if "op" in record:
            self.open[number] = Request(record, self._targets(record))
            return
        request = self.open[number]
        if "accepted" in record:
            request.accepted = record["accepted"]
        elif "again" in record:
            request.found |= record["found"]
        elif "doubt" in record:
            if not request.doubted:
                request.doubted = True
                self.counts["doubt"] += 1
            if record["doubt"].startswith("500 "):
                # Whatever is away, the service has to say so: 503.
                self._fault(request, record["doubt"])
        elif "unsent" in record:
            if not request.doubted:
                self.counts["unsent"] += 1
                self._settle(number, [target.before for target in request.targets])
        elif "refused" in record:
            self._fault(request, f"refused with {record['problem']}")
            self._settle(number, [target.before for target in request.targets])
        elif "ack" in record:
            self.counts["acknowledged"] += 1
            kind = request.record["op"]
            self.acknowledged[kind] = self.acknowledged.get(kind, 0) + 1
            self._acknowledge(number, record)
        elif "look" in record:
            states = []
            for target, shown in zip(request.targets, record["look"]):
                state, wrong = target.judge(shown)
                for text in wrong:
                    self._fault(request, f"looked at later, {target.name} is {text}")
                states.append(state)
            self.happened(request, states)
            self._settle(number, states)
        else:
            raise ValueError(f"a journal's line that nothing is known of: {record}")

    def happened(self, request: Request, states: list[Optional[File]]) -> None:
        """Counts how a doubt ended."""
        done = any(
            (state is None) != (target.before is None) or (state and target.before and state != target.before)
            for state, target in zip(states, request.targets)
        )
        self.counts["happened" if done else "not happened"] += 1

    def _fault(self, request: Request, text: str) -> None:
        self.faults.append(f"{self.journal} {request.record['n']} {request.record['op']}: {text}")

    def _acknowledge(self, number: int, record: dict) -> None:
        request = self.open[number]
        if request.doubted:
            # Another try with the same key was answered: with an earlier one's file, or with its own.
            self.counts["happened" if request.found else "retried"] += 1
        states = []
        for target, shown in zip(request.targets, record["files"]):
            state = target.after
            if state is not None and shown is not None:
                for text in state.differences(shown):
                    self._fault(request, f"answered {record['ack']}, but {target.name}: {text}")
                state = dataclasses.replace(state, id=shown["id"])
            if state is not None and record.get("etag") and state.current.etag is None:
                current = dataclasses.replace(state.current, etag=record["etag"])
                state = dataclasses.replace(state, current=current)
            states.append(state)
        self._settle(number, states)

    def _settle(self, number: int, states: list[Optional[File]]) -> None:
        """The end of a request: each of its files is in this state."""
        request = self.open.pop(number)
        for target, state in zip(request.targets, states):
            if state is not None:
                self.files[state.id] = state
                self.touched.add(state.id)
            elif target.before is not None:
                del self.files[target.id]
                self.gone.add(target.id)
                self.touched.add(target.id)
            else:
                self.never.add(target.name)

    def _targets(self, record: dict) -> list[Target]:
        if record["op"] in ("upload", "cut", "tus"):
            content = self._content(record, 1)
            return [Target(None, File(None, record["name"], record["metadata"], 1, False, content))]
        if record["op"] == "import":
            return [self._imported(record, index) for index in range(len(record["items"]))]
        if record["op"] == "copy":
            source = self.files[record["from"]]
            current = dataclasses.replace(source.current, version=1)
            return [Target(None, File(None, record["name"], record["metadata"], 1, False, current))]
        before = [self.files[identity] for identity in record["ids"]]
        return [Target(file, self._after(record, file)) for file in before]

    def _imported(self, record: dict, index: int) -> Target:
        """The file of an item: like an upload of its own."""
        item = record["items"][index]
        origin = f"{self.journal}/{record['n']}/{index}"
        content = Content(origin, 1, item["size"], item["sha256"], record["content_type"])
        return Target(None, File(None, item["name"], item["metadata"], 1, False, content))

    def _after(self, record: dict, file: File) -> Optional[File]:
        match record["op"]:
            case "replace":
                return file.with_content(self._content(record, file.current.version + 1))
            case "patch":
                return file.changed(name=record["name"], metadata={**file.metadata, **record["metadata"]})
            case "trash":
                return file if file.trashed else file.changed(trashed=True)
            case "restore":
                return file.changed(trashed=False)
            case "remove":
                return None
            case "revert":
                [found] = [content for content in file.earlier if content.version == record["version"]]
                return file.with_content(dataclasses.replace(found, version=file.current.version + 1))
        raise ValueError(f"nothing is known of the request {record}")

    def _content(self, record: dict, version: int) -> Content:
        origin = f"{self.journal}/{record['n']}"
        return Content(origin, version, record["size"], record["sha256"], record["content_type"])
