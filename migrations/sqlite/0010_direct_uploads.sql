-- Expands only: a binary that knows no more than 0009 goes on working.

-- What an upload straight to the store must have, as S3 computes it.
ALTER TABLE uploads ADD COLUMN crc64nvme BLOB;

-- Local store: the parts of an upload, each written by one request to one place of a temporary file.
CREATE TABLE direct_parts (
    upload_id  BLOB NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    -- From 1 on.
    number     INTEGER NOT NULL,
    -- Of the temporary file that its bytes lie in, and where in it, in bytes.
    epoch      INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    -- None while it is being written: its row comes before its bytes, and goes when its writer gave up.
    size       INTEGER,
    sha256     BLOB,
    crc64nvme  BLOB,
    PRIMARY KEY (upload_id, number, epoch),
    CHECK (size IS NULL OR (sha256 IS NOT NULL AND crc64nvme IS NOT NULL))
) STRICT;

-- Bytes that did not come through the service are hashed afterwards.
-- hash_after: while they, or who refers to them, have no hash yet; from when on somebody may take it up.
ALTER TABLE objects ADD COLUMN hash_after INTEGER;
-- SQLite drops no constraint of a table. Its manual has this way for it, as no row is other than before
-- (lang_altertable.html, section 7).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
    SET sql = replace(sql, 'sha256 IS NOT NULL AND refs > 0', 'refs > 0 AND (sha256 IS NOT NULL OR hash_after IS NOT NULL)')
    WHERE type = 'table' AND name = 'objects';
PRAGMA writable_schema = RESET;

CREATE INDEX objects_unhashed ON objects (hash_after) WHERE state = 'live' AND hash_after IS NOT NULL;
