-- Expands only: a binary that knows no more than 0009 goes on working.

-- What an upload straight to the store must have, as S3 computes it.
ALTER TABLE uploads ADD COLUMN crc64nvme BYTEA;

-- Local store: the parts of an upload, each written by one request to one place of a temporary file.
CREATE TABLE direct_parts (
    upload_id  UUID NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    -- From 1 on.
    number     INTEGER NOT NULL,
    -- Of the temporary file that its bytes lie in, and where in it, in bytes.
    epoch      BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    -- None while it is being written: its row comes before its bytes, and goes when its writer gave up.
    size       BIGINT,
    sha256     BYTEA,
    crc64nvme  BYTEA,
    PRIMARY KEY (upload_id, number, epoch),
    CHECK (size IS NULL OR (sha256 IS NOT NULL AND crc64nvme IS NOT NULL))
);

-- Bytes that did not come through the service are hashed afterwards.
-- hash_after: while they, or who refers to them, have no hash yet; from when on somebody may take it up.
ALTER TABLE objects ADD COLUMN hash_after TIMESTAMPTZ;
ALTER TABLE objects DROP CONSTRAINT objects_check1;
ALTER TABLE objects ADD CONSTRAINT objects_live
    CHECK (state <> 'live' OR (size IS NOT NULL AND refs > 0 AND (sha256 IS NOT NULL OR hash_after IS NOT NULL)))
    NOT VALID;

CREATE INDEX objects_unhashed ON objects (hash_after) WHERE state = 'live' AND hash_after IS NOT NULL;
