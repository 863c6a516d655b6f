"""The check: journals against the service, and both against the store seen without it."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from pathlib import Path
from typing import Iterable, Optional

import common
from common import Api, Failure, Server, Site

from crash.model import KEEP, Content, File, Ledger

REST_WITHIN = 240.0
"""How long the reaper may take until it is at rest, in seconds: a lease (30), the horizon (5), or what
a crash of the reaper itself puts off (60), and as much again for a busy machine."""

STILL_WITHIN = 60.0
"""How long imports may add files until everything was listed without one more, in seconds: their pauses end in
half a second, and what a killed process had is taken up 30 s later."""

GONE_AT_ONCE = 1000
"""Of the files that were removed for good, so many of the last are asked for by id."""


class Journals:
    """The ledgers of all writers of a site, read from their files alone."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        self.ledgers = [Ledger(path.stem) for path in self.paths]
        self._read = [0] * len(self.paths)

    def follow(self) -> None:
        """Reads what was added."""
        for index, path in enumerate(self.paths):
            with path.open(encoding="utf-8") as lines:
                lines.seek(self._read[index])
                while line := lines.readline():
                    if line.endswith("\n"):
                        self.ledgers[index].read(json.loads(line))
                        self._read[index] = lines.tell()

    def count(self, what: str) -> int:
        return sum(ledger.counts[what] for ledger in self.ledgers)


class Check:
    """One look at everything; `faults` is what is wrong."""

    def __init__(self, server: Server, journals: Journals, api: Api) -> None:
        self.server, self.journals, self.api = server, journals, api
        self.faults: list[str] = []
        self.there: list[File] = []
        """Every file as it is, once `lists` has run: what was in doubt is decided."""
        self.etags: set[str] = set()

    # --- the service

    def lists(self) -> None:
        """What the service lists, live and trashed, is what the journals allow, field by field, and
        nothing else. Usage is the sum of it."""
        shown, usage = self._shown()
        left = dict(shown)
        by_name: dict[str, list[dict]] = {}
        for file in shown.values():
            by_name.setdefault(file["name"], []).append(file)
        for ledger in self.journals.ledgers:
            self.faults += ledger.faults
            ledger.faults.clear()
            doubtful = self._doubts(ledger, left, by_name)
            for identity, file in ledger.files.items():
                if identity in doubtful:
                    continue
                found = left.pop(identity, None)
                if found is None:
                    self.faults.append(f"{self._told(ledger, file)} is missing")
                    continue
                for text in file.differences(found):
                    self.faults.append(f"{self._told(ledger, file)}: {text}")
                self.there.append(file)
        for file in left.values():
            why = "was removed for good" if any(file["id"] in ledger.gone for ledger in self.journals.ledgers) else (
                "was never made" if any(file["name"] in ledger.never for ledger in self.journals.ledgers) else "is in no journal"
            )
            self.faults.append(f"{file['name']} ({file['id']}) is there, and {why}: {json.dumps(file)}")
        self._usage(usage)

    def _shown(self) -> tuple[dict[str, dict], dict]:
        """Every file, live and trashed, by id, and the usage: both of one moment. Between rounds imports go
        on, and what is listed while one of their files appears is listed again."""
        until = time.monotonic() + STILL_WITHIN
        while True:
            before = self._get_usage()
            shown: dict[str, dict] = {}
            twice: list[str] = []
            for trashed in ("", "true"):
                for page in self.api.pages(limit=1000, **({"trashed": trashed} if trashed else {})):
                    for file in page["items"]:
                        if file["id"] in shown:
                            twice.append(f"{file['name']} ({file['id']}) is listed twice")
                        shown[file["id"]] = file
            usage = self._get_usage()
            if usage == before:
                self.faults += twice
                return shown, usage
            if time.monotonic() > until:
                raise Failure(f"usage did not stand still for the time of one listing within {STILL_WITHIN:.0f} s")

    def _get_usage(self) -> dict:
        return self.api.expect(200, "GET", "/v1/usage").json()

    def _doubts(self, ledger: Ledger, left: dict[str, dict], by_name: dict[str, list[dict]]) -> set[str]:
        """Takes the files of requests in doubt out of `left`; their ids."""
        ids: set[str] = set()
        for number, request in ledger.open.items():
            for target in request.targets:
                if target.id is not None:
                    found = left.pop(target.id, None)
                    ids.add(target.id)
                else:
                    named = by_name.get(target.name, [])
                    if len(named) > 1:
                        self.faults.append(f"{ledger.journal} {number}: {len(named)} files are called {target.name}")
                    found = left.pop(named[0]["id"], None) if named else None
                state, wrong = target.judge(found)
                self.faults += [f"{ledger.journal} {number} {request.record['op']} {target.name} is {text}" for text in wrong]
                if state is not None:
                    self.there.append(state)
        return ids

    @staticmethod
    def _told(ledger: Ledger, file: File) -> str:
        return f"{ledger.journal}: {file.name} ({file.id}, version {file.current.version})"

    def _usage(self, usage: dict) -> None:
        expected = {"bytes": sum(file.bytes() for file in self.there), "files": len(self.there)}
        for field, value in expected.items():
            if usage[field] != value and not self.faults:
                self.faults.append(f"usage: {field} is {usage[field]}, what is there has {value}")

    def contents(self, ids: Optional[set[str]] = None) -> None:
        """Every byte of these files and of their earlier versions, or of all files; the trash gives none."""
        for file in self.there:
            if ids is not None and file.id not in ids:
                continue
            path = f"/v1/files/{file.id}"
            if file.trashed:
                answer = self.api.call("GET", f"{path}/content")
                if answer.status != 410:
                    self.faults.append(f"{file.name} is in the trash, and its content answers {answer.status}")
                continue
            self._bytes(file, f"{path}/content", file.current)
            listed = self.api.expect(200, "GET", f"{path}/versions").json()["items"]
            expected = [(each.version, each.size, each.sha256, each.content_type) for each in file.contents()]
            found = [(each["version"], each["size"], each["sha256"], each["content_type"]) for each in listed]
            if found != expected:
                self.faults.append(f"{file.name} has the versions {found}, must have {expected}")
                continue
            for each in file.earlier:
                self._bytes(file, f"{path}/versions/{each.version}/content", each)

    def _bytes(self, file: File, path: str, content: Content) -> None:
        response = self.api.open("GET", path)
        digest, length = hashlib.sha256(), 0
        try:
            while block := response.read(256 * 1024):
                digest.update(block)
                length += len(block)
        except (OSError, http.client.HTTPException) as error:
            self.api.close()
            self.faults.append(f"{file.name} ({path}): {type(error).__name__}: {error}")
            return
        if (response.status, length, digest.hexdigest()) != (200, content.size, content.sha256):
            self.faults.append(
                f"{file.name} ({path}): {response.status}, {length} bytes with the SHA-256 {digest.hexdigest()}; "
                f"must be {content.size} bytes with {content.sha256}"
            )
        etag = response.getheader("ETag") or ""
        self.etags.add(etag.strip('"'))
        if content.etag is not None and content.etag != etag:
            self.faults.append(f"{file.name} ({path}): ETag {etag}, was answered as {content.etag}")

    def removed(self) -> None:
        """What was removed for good is 404."""
        for ledger in self.journals.ledgers:
            for identity in sorted(ledger.gone)[-GONE_AT_ONCE:]:
                answer = self.api.call("GET", f"/v1/files/{identity}")
                if answer.status != 404:
                    self.faults.append(f"{identity} was removed for good, and answers {answer.status}")

    # --- the store

    def objects(self) -> int:
        """How many live objects there must be: what copies and restored versions share counts once."""
        return len({content.origin for file in self.there for content in file.contents()})

    def rest(self) -> float:
        """Waits until fsck finds nothing, and nothing but the objects that there must be: the seconds
        it took. What is left of a killed request may have a row and a key as well, until its lease ends."""
        start, expected = time.monotonic(), self.objects()
        # Its connection would be idle for too long.
        self.api.close()
        while True:
            _, report = self.server.fsck()
            if not report["problems"] and report["objects"] == report["keys"] == expected:
                return time.monotonic() - start
            if time.monotonic() - start > REST_WITHIN:
                found = [json.dumps(problem, sort_keys=True) for problem in report["problems"]]
                self.faults += [f"fsck, {REST_WITHIN:.0f} s later: {problem}" for problem in found]
                self.faults.append(
                    f"{REST_WITHIN:.0f} s later there are {report['objects']} objects and {report['keys']} keys, "
                    f"where {expected} contents are kept"
                )
                return time.monotonic() - start
            time.sleep(2)

    def store(self, site: Site) -> None:
        """`box fsck` reads every byte and finds nothing; every key in the store, seen without the
        service, belongs to a live object, and each of those to a content that was sent."""
        code, report = self.server.fsck("--verify-checksums", "--rate", "0")
        self.faults += [f"fsck: {json.dumps(problem, sort_keys=True)}" for problem in report["problems"]]
        if code != 0:
            self.faults.append(f"fsck: exit status {code}")
        names = site.stored()
        expected = self.objects()
        if not report["objects"] == report["keys"] == len(names) == expected:
            self.faults.append(
                f"{expected} contents are kept; fsck tells {report['objects']} objects and {report['keys']} keys, "
                f"the store has {len(names)} names"
            )
        lost = self.etags - {name.rpartition("/")[2] for name in names}
        self.faults += [f"the service serves the object {each}, and the store has no such key" for each in sorted(lost)]


def attempt(check: Check, *steps) -> None:
    """Runs steps of a check; what stops it is a fault too."""
    try:
        for step in steps:
            step()
    except (Failure, OSError, http.client.HTTPException, KeyError, TypeError) as error:
        check.faults.append(f"the check ended early: {type(error).__name__}: {error}")


def api(server: Server) -> Api:
    return Api(server.url, server.token("12h"), 120.0)
