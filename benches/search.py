#!/usr/bin/env python3
"""Search: the time of one page of 100, by filter and order, among few rows and among many.

Those with a star have a filter and an order that no index has both of (docs/adr/0006).

Writes --few and --many rows straight into the databases of two servers (all of one tenant, over one
object), then asks both in turn for the same page, over one connection each. Each figure is the median
of --requests. The ratio of the two is what a hundred times the rows cost: it should stay near 1.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import subprocess
import time
import urllib.parse
import uuid

import common
from common import Api, Failure, Server, note

ROWS = """
WITH RECURSIVE numbers (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {last})
INSERT INTO files (id, tenant, name, content_type, size, sha256, metadata, version, revision,
                   object_id, created_at, updated_at, expires_at, trashed_at, created_by)
SELECT {id}, 'bench',
       'folder-' || (i % 100) || '/sub-' || (i / 100 % 40) || '/file-' || i || '.bin',
       CASE WHEN (i / 1000 + i) % 100 = 0 THEN 'application/x-rare' WHEN (i / 1000 + i) % 100 = 1 THEN 'video/mp4'
            WHEN (i / 1000 + i) % 5 = 0 THEN 'image/png' WHEN (i / 1000 + i) % 5 = 1 THEN 'image/jpeg' ELSE 'application/pdf' END,
       (i * 7919) % 10000019, {sha256},
       {metadata},
       1, 1, {object}, {created}, {updated}, NULL, CASE WHEN i % 100 = 50 THEN {created} END, 'bench'
FROM numbers
"""

# What stands for the expressions that differ. Times go on by a millisecond a row.
SQLITE = {
    "id": "unhex(printf('%032x', i + 1))",
    "sha256": "unhex(printf('%064x', i + 1))",
    "metadata": "json_object('kind', 'k' || (i % 100), 'number', i, 'at', json_object('number', i), 'tags', json_array('t' || (i % 7), 'all'))",
    "created": "1700000000000000 + i * 1000",
    "updated": "1700000000000000 + ((i * 7919) % 1000003) * 1000",
}
POSTGRES = {
    "id": "CAST(lpad(to_hex(i + 1), 32, '0') AS UUID)",
    "sha256": "decode(lpad(to_hex(i + 1), 64, '0'), 'hex')",
    "metadata": "jsonb_build_object('kind', 'k' || (i % 100), 'number', i, 'at', jsonb_build_object('number', i), 'tags', jsonb_build_array('t' || (i % 7), 'all'))",
    "created": "TIMESTAMPTZ '2023-11-14 22:13:20Z' + i * INTERVAL '1 millisecond'",
    "updated": "TIMESTAMPTZ '2023-11-14 22:13:20Z' + (CAST(i AS BIGINT) * 7919 % 1000003) * INTERVAL '1 millisecond'",
}


def fill(at: common.Site, first: int, last: int) -> None:
    """Rows `first` to `last`, over one live object, and fresh statistics for the planner."""
    object_id = uuid.UUID(int=1)
    if at.bucket:
        url = at.environ["BOX_DATABASE__URL"]
        rows = ROWS.format(first=first, last=last, object=f"CAST('{object_id}' AS UUID)", **POSTGRES)
        rows = rows.replace("(i * 7919)", "(CAST(i AS BIGINT) * 7919)")
        live = (
            "INSERT INTO objects (id, tenant, state, epoch, refs, size, sha256, quiet_at, created_at) "
            f"VALUES ('{object_id}', 'bench', 'live', 1, 1, 0, '\\x00', now(), now()) ON CONFLICT DO NOTHING"
        )
        # Flushed, for no vacuum marks what is not.
        vacuum = ("VACUUM ANALYZE files", "VACUUM ANALYZE file_terms")
        for statement in (live, f"SET synchronous_commit = on; {rows}", *vacuum):
            command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
            if done.returncode != 0:
                raise Failure(f"psql: {done.stderr.strip()}")
        return
    connection = sqlite3.connect(at.data_dir / "box.db", timeout=60)
    with connection:
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute(
            "INSERT OR IGNORE INTO objects (id, tenant, state, epoch, refs, size, sha256, quiet_at, created_at) "
            "VALUES (?, 'bench', 'live', 1, 1, 0, x'00', 0, 0)",
            (object_id.bytes,),
        )
        literal = f"x'{object_id.hex}'"
        sqlite = dict(SQLITE)
        if sqlite3.sqlite_version_info < (3, 41):
            connection.create_function("unhex", 1, bytes.fromhex, deterministic=True)
        connection.execute(ROWS.format(first=first, last=last, object=literal, **sqlite))
    # Else pages are looked for in the log first.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def cases(rows: int) -> dict[str, dict[str, object]]:
    """Queries, each of which leaves the same share of few files as of many; 1 %, and a page of a hundred, where
    it does not say otherwise. What is found by one value is one file."""
    middle = rows // 2

    def at(row: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + row // 1000))

    folder = {"prefix": "folder-77/"}
    large = {"min_size": 9_900_000}
    sizes = {"min_size": 5_000_000, "max_size": 5_100_000}
    by_name = {"sort": "name"}
    return {
        "newest first": {},
        "by name": by_name,
        "by size": {"sort": "-size"},
        "by change": {"sort": "-updated_at"},
        "prefix, by name": {**folder, **by_name},
        "prefix, newest first": folder,
        "prefix within a name, newest first": {"prefix": "folder-77"},
        "delimiter, 100 folders": {"delimiter": "/"},
        "delimiter, 40 folders": {"delimiter": "/", **folder},
        "name, one": {"name": f"folder-{middle % 100}/sub-{middle // 100 % 40}/file-{middle}.bin"},
        "type": {"content_type": "application/x-rare"},
        "type, 20 %": {"content_type": "image/png"},
        "types, video/*": {"content_type": "video/*"},
        "types, image/*, 40 %": {"content_type": "image/*"},
        "types, image/*, 40 %, by name": {"content_type": "image/*", **by_name},
        "metadata": {"metadata": json.dumps({"kind": "k42"})},
        "metadata, all": {"metadata": json.dumps({"tags": ["all"]})},
        "metadata, one": {"metadata": json.dumps({"number": middle + 1})},
        "metadata, one below": {"metadata": json.dumps({"at": {"number": middle + 1}})},
        "size, the largest": large,
        "size, by size": {**large, "sort": "-size"},
        "size, within a class": sizes,
        "created, a second": {"created_after": at(middle), "created_before": at(middle + 1000)},
        "sha256, one": {"sha256": f"{middle + 1:064x}"},
        "trash": {"trashed": "true"},
        # No index has both: these may grow with the square root of the rows.
        "* metadata, by name": {"metadata": json.dumps({"kind": "k42"}), **by_name},
        "* created, half, by name": {"created_after": at(middle), **by_name},
        "* types, video/*, by name": {"content_type": "video/*", **by_name},
        "* prefix of 40 folders, newest first": {"prefix": "folder-77/sub-"},
        "* prefix, by size": {**folder, "sort": "-size"},
        "* size, by name": {**sizes, **by_name},
        "* size, by change": {**sizes, "sort": "-updated_at"},
        "* metadata and sizes": {"metadata": json.dumps({"tags": ["t3"]}), **large},
    }


def compare(lists: list[tuple[Api, dict[str, object]]], requests: int, within: float) -> list[tuple[float, int]]:
    """For each of the lists the median time of a page in milliseconds, and how many items it has. They are asked for in
    turn, so that what else the machine does slows all of them alike."""
    asked = [(api, "/v1/files?" + urllib.parse.urlencode({"limit": 100, **query})) for api, query in lists]
    found = []
    for api, path in asked:
        page = api.expect(200, "GET", path).json()
        found.append(len(page["items"]) + len(page.get("prefixes", [])))
    times: list[list[float]] = [[] for _ in asked]
    began = time.monotonic()
    while len(times[0]) < requests and time.monotonic() - began < within:
        for (api, path), took in zip(asked, times):
            start = time.monotonic()
            api.expect(200, "GET", path)
            took.append(time.monotonic() - start)
    return [(statistics.median(took) * 1e3, items) for took, items in zip(times, found)]


def deep(api: Api, pages: int = 20) -> dict[str, object]:
    """The cursor behind the first `pages` pages of a thousand."""
    cursor = None
    for page in api.pages(limit=400, sort="name"):
        cursor, pages = page["next_cursor"], pages - 1
        if pages == 0 or cursor is None:
            break
    return {"sort": "name", "cursor": cursor}


def main() -> int:
    arguments = common.parser(__doc__)
    arguments.add_argument("--few", type=common.count_argument, default=10_000, help="default: %(default)s")
    arguments.add_argument("--many", type=common.count_argument, default=1_000_000, help="default: %(default)s")
    arguments.add_argument("--requests", type=common.count_argument, default=100, help="default: %(default)s")
    arguments.add_argument("--within", type=float, default=5.0, help="seconds a query at most (default: %(default)s)")
    arguments.add_argument("--pair", choices=(*common.PAIRS, "both"), default="local", help="default: %(default)s")
    given = arguments.parse_args()
    pairs = common.PAIRS if given.pair == "both" else (given.pair,)
    rows = []
    with common.workspace(given.dir, 2000 * given.many) as work:
        for pair in pairs:
            with contextlib.ExitStack() as stack:
                asked = []
                for size in (given.few, given.many):
                    at = stack.enter_context(common.site(pair, work))
                    server = stack.enter_context(Server(given.box, at))
                    note(f"{at.title()}: {size} rows")
                    fill(at, 0, size)
                    asked.append((server, size))
                # Only now, for a connection would have been idle for too long.
                apis = [(Api(server.url, server.token()), size) for server, size in asked]
                queries = [{**cases(size), "by name, page 21": deep(api)} for api, size in apis]
                for name in queries[0]:
                    lists = [(api, of_size[name]) for (api, _), of_size in zip(apis, queries)]
                    few, many = compare(lists, given.requests, given.within)
                    ratio = f"{many[0] / few[0]:.2f}"
                    rows.append([at.title(), name, f"{few[0]:.2f}", few[1], f"{many[0]:.2f}", many[1], ratio])
    print(f"pages of 100, medians of {given.requests}; {common.machine()}")
    header = ["pair", "query", f"ms at {given.few}", "found", f"ms at {given.many}", "found", "ratio"]
    print(common.table(header, rows))
    return 0


if __name__ == "__main__":
    common.run(main)
