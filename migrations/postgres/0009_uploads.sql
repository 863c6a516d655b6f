-- Expands only: a binary that knows no more than 0008 goes on working.

-- Uploads that take more than one request, and what became of each until it expires.
CREATE TABLE uploads (
    id               UUID NOT NULL PRIMARY KEY,
    tenant           TEXT NOT NULL,
    -- tus: through the service, in any number of pieces. single, multipart: straight to the store.
    strategy         TEXT NOT NULL CHECK (strategy IN ('tus', 'single', 'multipart')),
    state            TEXT NOT NULL CHECK (state IN ('open', 'done')),
    -- What it becomes: writing while the upload is open. Its lease is the upload's expiry.
    object_id        UUID NOT NULL,
    -- What it became. The file may be gone again.
    file_id          UUID,
    name             TEXT NOT NULL,
    -- None: the first bytes decide.
    content_type     TEXT,
    metadata         JSONB NOT NULL,
    -- Of the file.
    file_expires_at  TIMESTAMPTZ,
    -- What tus calls metadata, as it was sent.
    tus_metadata     TEXT,
    -- Declared, in bytes; none until it is known.
    size             BIGINT,
    sha256           BYTEA,
    -- Bytes that are durable, from the first on, and the state of their SHA-256.
    received         BIGINT NOT NULL,
    hash_state       BYTEA,
    -- Counts its writers that did not follow one which ended in order; the object has the same.
    epoch            BIGINT NOT NULL,
    -- Until when somebody may write. None: whoever wrote last has ended in order.
    writer_until     TIMESTAMPTZ,
    -- Since when somebody else waits to write.
    asked_at         TIMESTAMPTZ,
    -- Local store: whose temporary file has the bytes that were received.
    held_epoch       BIGINT,
    -- Straight to the store: the store's own name for it, and the size of its parts.
    store_upload     TEXT,
    part_size        BIGINT,
    created_at       TIMESTAMPTZ NOT NULL,
    created_by       TEXT NOT NULL,
    expires_at       TIMESTAMPTZ NOT NULL,
    CHECK (state <> 'done' OR file_id IS NOT NULL)
);

CREATE INDEX uploads_open ON uploads (tenant, id) WHERE state = 'open';
CREATE INDEX uploads_expiring ON uploads (expires_at);

-- The bytes of an open upload, in order, where they are not all in one place.
CREATE TABLE upload_pieces (
    upload_id  UUID NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    -- Where it begins, in bytes.
    position   BIGINT NOT NULL,
    -- None while it is being written: its row comes before its bytes.
    size       BIGINT,
    -- An object of its own, writing until the upload has ended.
    object_id  UUID NOT NULL,
    PRIMARY KEY (upload_id, object_id)
);
