-- Expands only: a binary that knows no more than 0001 goes on working.

-- By bytes, so that a range of types is a range of the index.
ALTER TABLE files ALTER COLUMN content_type TYPE TEXT COLLATE "C";

CREATE INDEX files_by_size ON files (tenant, size, id) WHERE trashed_at IS NULL;
CREATE INDEX files_by_updated_at ON files (tenant, updated_at, id) WHERE trashed_at IS NULL;
CREATE INDEX files_by_content_type ON files (tenant, content_type, created_at, id) WHERE trashed_at IS NULL;
CREATE INDEX files_by_sha256 ON files (tenant, sha256);
-- Most files have no metadata, and pay nothing for it.
CREATE INDEX files_by_metadata ON files USING GIN (metadata jsonb_path_ops) WHERE metadata <> '{}';

-- When a file's content came and who sent it; null: with the file itself.
ALTER TABLE files ADD COLUMN content_at TIMESTAMPTZ;
ALTER TABLE files ADD COLUMN content_by TEXT;

-- Contents of files that were replaced and are kept.
CREATE TABLE versions (
    file_id       UUID NOT NULL REFERENCES files (id),
    version       BIGINT NOT NULL,
    tenant        TEXT NOT NULL,
    object_id     UUID NOT NULL REFERENCES objects (id),
    content_type  TEXT NOT NULL,
    size          BIGINT NOT NULL,
    sha256        BYTEA,
    created_at    TIMESTAMPTZ NOT NULL,
    created_by    TEXT NOT NULL,
    replaced_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (file_id, version)
);

CREATE INDEX versions_by_object ON versions (object_id);
CREATE INDEX versions_replaced ON versions (replaced_at);

-- What a writing object holds of its tenant's quota, until it is live or dead.
ALTER TABLE objects ADD COLUMN reserved_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE objects ADD COLUMN reserved_files BIGINT NOT NULL DEFAULT 0;

-- What a tenant's files, trash and versions take: the sum of its rows. There are several of them so
-- that those who write for one tenant at the same time need not wait for each other; one alone says
-- nothing, and may be negative. What is reserved is counted in row 0 only.
CREATE TABLE usage (
    tenant          TEXT NOT NULL,
    shard           BIGINT NOT NULL,
    bytes           BIGINT NOT NULL,
    files           BIGINT NOT NULL,
    reserved_bytes  BIGINT NOT NULL,
    reserved_files  BIGINT NOT NULL,
    PRIMARY KEY (tenant, shard)
);

INSERT INTO usage (tenant, shard, bytes, files, reserved_bytes, reserved_files)
SELECT tenant, 0, CAST(SUM(size) AS BIGINT), COUNT(*), 0, 0 FROM files GROUP BY tenant;

-- Requests with an Idempotency-Key: what each made, or which object it is writing.
CREATE TABLE idempotency_keys (
    tenant       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    route        TEXT NOT NULL,
    key          TEXT NOT NULL,
    -- Of all that is known of the request before its body.
    fingerprint  BYTEA NOT NULL,
    -- While it runs: its lease is the request's.
    object_id    UUID,
    -- Once it is done: the body's SHA-256, and what was made.
    body_sha256  BYTEA,
    result       TEXT,
    created_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant, subject, route, key)
);

CREATE INDEX idempotency_keys_by_created_at ON idempotency_keys (created_at);
