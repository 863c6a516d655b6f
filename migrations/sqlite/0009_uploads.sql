-- Expands only: a binary that knows no more than 0008 goes on working.

-- Uploads that take more than one request, and what became of each until it expires.
CREATE TABLE uploads (
    id               BLOB NOT NULL PRIMARY KEY,
    tenant           TEXT NOT NULL,
    -- tus: through the service, in any number of pieces. single, multipart: straight to the store.
    strategy         TEXT NOT NULL CHECK (strategy IN ('tus', 'single', 'multipart')),
    state            TEXT NOT NULL CHECK (state IN ('open', 'done')),
    -- What it becomes: writing while the upload is open. Its lease is the upload's expiry.
    object_id        BLOB NOT NULL,
    -- What it became. The file may be gone again.
    file_id          BLOB,
    name             TEXT NOT NULL,
    -- None: the first bytes decide.
    content_type     TEXT,
    metadata         TEXT NOT NULL,
    -- Of the file.
    file_expires_at  INTEGER,
    -- What tus calls metadata, as it was sent.
    tus_metadata     TEXT,
    -- Declared, in bytes; none until it is known.
    size             INTEGER,
    sha256           BLOB,
    -- Bytes that are durable, from the first on, and the state of their SHA-256.
    received         INTEGER NOT NULL,
    hash_state       BLOB,
    -- Counts its writers that did not follow one which ended in order; the object has the same.
    epoch            INTEGER NOT NULL,
    -- Until when somebody may write. None: whoever wrote last has ended in order.
    writer_until     INTEGER,
    -- Since when somebody else waits to write.
    asked_at         INTEGER,
    -- Local store: whose temporary file has the bytes that were received.
    held_epoch       INTEGER,
    -- Straight to the store: the store's own name for it, and the size of its parts.
    store_upload     TEXT,
    part_size        INTEGER,
    created_at       INTEGER NOT NULL,
    created_by       TEXT NOT NULL,
    expires_at       INTEGER NOT NULL,
    CHECK (state <> 'done' OR file_id IS NOT NULL)
) STRICT;

CREATE INDEX uploads_open ON uploads (tenant, id) WHERE state = 'open';
CREATE INDEX uploads_expiring ON uploads (expires_at);

-- The bytes of an open upload, in order, where they are not all in one place.
CREATE TABLE upload_pieces (
    upload_id  BLOB NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    -- Where it begins, in bytes.
    position   INTEGER NOT NULL,
    -- None while it is being written: its row comes before its bytes.
    size       INTEGER,
    -- An object of its own, writing until the upload has ended.
    object_id  BLOB NOT NULL,
    PRIMARY KEY (upload_id, object_id)
) STRICT;
