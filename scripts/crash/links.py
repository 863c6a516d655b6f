"""The writer of links: it makes, follows, changes and deletes links of its own, and knows what each must be.

Like the other writers it is not killed itself, so it keeps what it knows in memory, and compares all of it with
what the service lists whenever the service is whole again: what was answered is there, and of what was in doubt
either all or nothing. Uses of a link that has a most are exact; of the others a crash may lose the last ones, and
never adds any.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
from multiprocessing.connection import Connection
from typing import Optional

from crash.writer import Client

ELSEWHERE = "https://example.com/"

LINKS = 200
"""How many links it keeps, about."""


@dataclasses.dataclass
class Link:
    """A link as it must be: `uses` were answered, `may` more were not and may count."""

    url: str
    most: Optional[int]
    disabled: bool = False
    uses: int = 0
    may: int = 0


class LinkWriter(Client):
    """One process's work with links."""

    def __init__(self, name: str, seed: str, url: str, token: str) -> None:
        super().__init__(name, seed, url, token)
        self.links: dict[str, Link] = {}
        self.doubts: dict[str, tuple[Optional[Link], Optional[Link]]] = {}
        """What a link was before a request whose answer is not known, and what it is if that was done."""
        self.number = 0

    def work(self, halt: Connection) -> None:
        while not halt.poll():
            self.choose()

    def settle(self, all_keys: bool) -> None:
        """What the service lists is what must be; what was in doubt is decided by it."""
        del all_keys
        self.wait_until_ready()
        shown: dict[str, dict] = {}
        for page in self.api.pages("/v1/links", limit=1000, prefix=f"{self.name}/"):
            shown |= {link["slug"]: link for link in page["items"]}
        for slug, (before, after) in self.doubts.items():
            found = shown.get(slug)
            if all(self.differences(slug, each, found) for each in (before, after)):
                self.faults.append(f"link {slug}: in doubt between {before} and {after}, is {json.dumps(found)}")
            state = after if not self.differences(slug, after, found) else before
            self.links.pop(slug, None)
            if state is not None:
                self.links[slug] = state
        self.doubts.clear()
        for slug in shown.keys() | self.links.keys():
            found, link = shown.get(slug), self.links.get(slug)
            self.faults += self.differences(slug, link, found)
            if found and link and link.most is not None:
                # From here on it is known. Of the others some may still wait to be written.
                link.uses, link.may = found["uses"], 0

    @staticmethod
    def differences(slug: str, link: Optional[Link], found: Optional[dict]) -> list[str]:
        if link is None or found is None:
            there = "is there" if found else "is missing"
            return [] if (link is None) == (found is None) else [f"link {slug} {there}: {link} and {json.dumps(found)}"]
        least = link.uses if link.most is not None else 0
        most = link.uses + link.may
        wrong = [f"link {slug}: {found['uses']} uses, not {least} to {most}"] if not least <= found["uses"] <= most else []
        if found["url"] != link.url or found["max_uses"] != link.most or (found["state"] == "disabled") != link.disabled:
            wrong.append(f"link {slug} is {json.dumps(found)}, must be {link}")
        return wrong

    # --- requests

    def choose(self) -> None:
        chance = self.random
        free = [slug for slug in self.links if slug not in self.doubts]
        usable = [slug for slug in free if not self.links[slug].disabled]
        choices = [(1 if len(self.links) > LINKS else 6, "make"), (1, "batch")]
        if usable:
            choices += [(20, "follow"), (3, "change")]
        if free:
            choices += [(9 if len(self.links) > LINKS else 2, "delete")]
        weights = [weight for weight, _ in choices]
        match chance.choices([choice for _, choice in choices], weights)[0]:
            case "make":
                slug, link = self.new()
                body = {"slug": slug, "url": link.url, "max_uses": link.most}
                self.send(201, {slug: link}, "POST", "/v1/links", body)
            case "batch":
                made = dict(self.new() for _ in range(chance.randrange(2, 30)))
                items = [{"slug": slug, "url": link.url, "max_uses": link.most} for slug, link in made.items()]
                self.send(200, made, "POST", "/v1/links/batch", {"items": items})
            case "follow":
                self.follow(chance.choice(usable))
            case "change":
                slug = chance.choice(usable)
                url, disabled = f"{ELSEWHERE}{chance.getrandbits(32)}", chance.random() < 0.2
                changed = dataclasses.replace(self.links[slug], url=url, disabled=disabled)
                self.send(200, {slug: changed}, "PATCH", self.path(slug), {"url": url, "disabled": disabled})
            case "delete":
                slug = chance.choice(free)
                self.send(204, {slug: None}, "DELETE", self.path(slug), None)

    def new(self) -> tuple[str, Link]:
        self.number += 1
        most = self.random.choice((None, 1, 3, 1000))
        return f"{self.name}/{self.number}", Link(f"{ELSEWHERE}{self.number}", most)

    @staticmethod
    def path(slug: str) -> str:
        return "/v1/links/" + slug.replace("/", "%2F")

    def send(self, expected: int, after: dict[str, Optional[Link]], method: str, path: str, body: Optional[dict]) -> None:
        """A request, after which these links are so."""
        sent = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = self.api.call(method, path, sent, headers)
            problem = None if answer.status < 500 else answer.problem()
        except (OSError, http.client.HTTPException) as error:
            self.api.close()
            problem = f"{type(error).__name__}: {error}"
        if problem is None and answer.status == expected:
            # Of a batch some may be told to be unknown, together: a chunk is one transaction.
            items = answer.json().get("items", []) if path == "/v1/links/batch" else []
            statuses = {item["status"] for item in items}
            if statuses <= {201}:
                self.done[method if len(after) == 1 else "batch"] += 1
                for slug, link in after.items():
                    self.links.pop(slug, None)
                    if link is not None:
                        self.links[slug] = link
                return
            problem = f"statuses {statuses}" if statuses == {503} else None
        if problem is None:
            self.faults.append(f"{method} {path} was refused: {answer.status} {answer.body[:300]!r}")
            return
        self.doubts |= {slug: (self.links.get(slug), link) for slug, link in after.items()}
        self.wait_until_ready()

    def follow(self, slug: str) -> None:
        link = self.links[slug]
        # What was answered before is counted by now, with a most.
        spent = link.most is not None and link.uses >= link.most
        may_be_spent = link.most is not None and link.uses + link.may >= link.most
        try:
            answer = self.api.call("GET", f"/l/{slug}")
        except (OSError, http.client.HTTPException):
            self.api.close()
            link.may += 1
            self.wait_until_ready()
            return
        if answer.status >= 500:
            link.may += 1
            self.wait_until_ready()
        elif answer.status == 302 and not spent and answer.headers.get("location") == link.url:
            self.done["follow"] += 1
            link.uses += 1
        elif not (answer.status == 410 and may_be_spent):
            self.faults.append(f"GET /l/{slug} answered {answer.status} to {answer.headers.get('location')}; it is {link}")
