-- Expands only: a binary that knows no more than 0011 goes on working.

-- The bytes of an open upload by tus that the store holds as parts: all before its pieces, in the order of the numbers.
CREATE TABLE tus_parts (
    upload_id  UUID NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    -- From 1. One that was ever sent stays its writer's, whatever became of it: none is sent twice with other bytes.
    number     INTEGER NOT NULL CHECK (number BETWEEN 1 AND 10000),
    -- Of the upload, when its writer took the number.
    epoch      BIGINT NOT NULL,
    -- None until the store has it: its row comes before its bytes.
    size       BIGINT,
    etag       TEXT,
    PRIMARY KEY (upload_id, number),
    CHECK ((size IS NULL) = (etag IS NULL))
);
