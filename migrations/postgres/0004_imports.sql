-- Expands only: a binary that knows no more than 0003 goes on working.

-- Batches of URLs to fetch.
CREATE TABLE imports (
    id           UUID NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL,
    -- While it is being received nobody sees it.
    state        TEXT NOT NULL CHECK (state IN ('receiving', 'running', 'done', 'cancelled')),
    options      TEXT NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL,
    created_by   TEXT NOT NULL,
    finished_at  TIMESTAMPTZ,
    -- While it is being received: until when its sender is believed to be there.
    lease_until  TIMESTAMPTZ,
    CHECK (state <> 'receiving' OR lease_until IS NOT NULL)
);

CREATE INDEX imports_by_tenant ON imports (tenant, id);
CREATE INDEX imports_running ON imports (id) WHERE state = 'running';
CREATE INDEX imports_receiving ON imports (lease_until) WHERE state = 'receiving';

-- The URLs of an import. Of a hundred thousand rows each would look the same import up: no REFERENCES.
CREATE TABLE import_items (
    import_id     UUID NOT NULL,
    -- Counts from 0.
    number        BIGINT NOT NULL,
    tenant        TEXT NOT NULL,
    url           TEXT NOT NULL,
    -- Of the URL, for the bound on what is fetched from one host at a time.
    host          TEXT NOT NULL,
    name          TEXT,
    metadata      JSONB,
    -- What the sender declared: bytes, and checksums in hexadecimal digits.
    size          BIGINT,
    sha256        TEXT,
    md5           TEXT,
    -- What the origin is sent, as JSON; they may hold secrets, and go when the item ends.
    headers       TEXT,
    state         TEXT NOT NULL CHECK (state IN ('pending', 'fetching', 'done', 'failed', 'cancelled')),
    -- Counts the claims: together with the claim it says who may end the item.
    attempts      BIGINT NOT NULL,
    -- Of them, those that failed since it was sent, or tried again by hand.
    failures      BIGINT NOT NULL,
    -- While pending: from when on it may be claimed.
    not_before    TIMESTAMPTZ NOT NULL,
    -- While fetching: which process has it, and until when that is believed to live.
    claim         UUID,
    lease_until   TIMESTAMPTZ,
    -- How the last attempt ended.
    http_status   BIGINT,
    error_type    TEXT,
    error_detail  TEXT,
    file_id       UUID,
    bytes         BIGINT,
    PRIMARY KEY (import_id, number),
    CHECK (state <> 'fetching' OR (claim IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK (state <> 'done' OR (file_id IS NOT NULL AND bytes IS NOT NULL))
);

CREATE INDEX import_items_pending ON import_items (import_id, not_before, number) WHERE state = 'pending';
CREATE INDEX import_items_fetching ON import_items (import_id, number) WHERE state = 'fetching';

-- How many items of an import are in each state: the sum of its rows, as in usage. One alone says
-- nothing, and may be negative.
CREATE TABLE import_counts (
    import_id  UUID NOT NULL,
    shard      BIGINT NOT NULL,
    pending    BIGINT NOT NULL,
    fetching   BIGINT NOT NULL,
    done       BIGINT NOT NULL,
    failed     BIGINT NOT NULL,
    cancelled  BIGINT NOT NULL,
    -- Of the files that were made.
    bytes      BIGINT NOT NULL,
    PRIMARY KEY (import_id, shard)
);
