-- Expands only: a binary that knows no more than 0003 goes on working.

-- Batches of URLs to fetch.
CREATE TABLE imports (
    id           BLOB NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL,
    -- While it is being received nobody sees it.
    state        TEXT NOT NULL CHECK (state IN ('receiving', 'running', 'done', 'cancelled')),
    options      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    finished_at  INTEGER,
    -- While it is being received: until when its sender is believed to be there.
    lease_until  INTEGER,
    CHECK (state <> 'receiving' OR lease_until IS NOT NULL)
) STRICT;

CREATE INDEX imports_by_tenant ON imports (tenant, id);
CREATE INDEX imports_running ON imports (id) WHERE state = 'running';
CREATE INDEX imports_receiving ON imports (lease_until) WHERE state = 'receiving';

-- The URLs of an import. Of a hundred thousand rows each would look the same import up: no REFERENCES.
CREATE TABLE import_items (
    import_id     BLOB NOT NULL,
    -- Counts from 0.
    number        INTEGER NOT NULL,
    tenant        TEXT NOT NULL,
    url           TEXT NOT NULL,
    -- Of the URL, for the bound on what is fetched from one host at a time.
    host          TEXT NOT NULL,
    name          TEXT,
    metadata      TEXT,
    -- What the sender declared: bytes, and checksums in hexadecimal digits.
    size          INTEGER,
    sha256        TEXT,
    md5           TEXT,
    -- What the origin is sent, as JSON; they may hold secrets, and go when the item ends.
    headers       TEXT,
    state         TEXT NOT NULL CHECK (state IN ('pending', 'fetching', 'done', 'failed', 'cancelled')),
    -- Counts the claims: together with the claim it says who may end the item.
    attempts      INTEGER NOT NULL,
    -- Of them, those that failed since it was sent, or tried again by hand.
    failures      INTEGER NOT NULL,
    -- While pending: from when on it may be claimed.
    not_before    INTEGER NOT NULL,
    -- While fetching: which process has it, and until when that is believed to live.
    claim         BLOB,
    lease_until   INTEGER,
    -- How the last attempt ended.
    http_status   INTEGER,
    error_type    TEXT,
    error_detail  TEXT,
    file_id       BLOB,
    bytes         INTEGER,
    PRIMARY KEY (import_id, number),
    CHECK (state <> 'fetching' OR (claim IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK (state <> 'done' OR (file_id IS NOT NULL AND bytes IS NOT NULL))
) STRICT;

CREATE INDEX import_items_pending ON import_items (import_id, not_before, number) WHERE state = 'pending';
CREATE INDEX import_items_fetching ON import_items (import_id, number) WHERE state = 'fetching';

-- How many items of an import are in each state: the sum of its rows, as in usage. One alone says
-- nothing, and may be negative.
CREATE TABLE import_counts (
    import_id  BLOB NOT NULL,
    shard      INTEGER NOT NULL,
    pending    INTEGER NOT NULL,
    fetching   INTEGER NOT NULL,
    done       INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    cancelled  INTEGER NOT NULL,
    -- Of the files that were made.
    bytes      INTEGER NOT NULL,
    PRIMARY KEY (import_id, shard)
) STRICT;
