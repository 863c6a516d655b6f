-- What a deployment is: one row, written by the first start.
CREATE TABLE deployment (
    singleton    BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (singleton),
    environment  TEXT NOT NULL,
    database_id  UUID NOT NULL,
    -- Whether the store's marker has been written: once it has, its absence means the wrong store.
    marked       BOOLEAN NOT NULL DEFAULT FALSE
);

-- The bytes at one key of the object store, and the row that vouches for the key. The key follows
-- from tenant and id. No key is written before its row is committed here, and no row goes while
-- bytes could still be at its key or still arrive.
CREATE TABLE objects (
    id           UUID NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('writing', 'live', 'dead')),
    -- Counts the writers that the object has had: only the last one may commit.
    epoch        BIGINT NOT NULL,
    -- Files (trashed ones too) that refer to the object.
    refs         BIGINT NOT NULL CHECK (refs >= 0),
    size         BIGINT,
    sha256       BYTEA,
    -- While writing: until when the writer may commit.
    lease_until  TIMESTAMPTZ,
    -- From when on no call to the store can write the key any more.
    quiet_at     TIMESTAMPTZ NOT NULL,
    -- While dead: from when on the reaper deletes the key, and from when on the row may go.
    delete_at    TIMESTAMPTZ,
    forget_at    TIMESTAMPTZ,
    created_at   TIMESTAMPTZ NOT NULL,
    CHECK (state <> 'writing' OR (lease_until IS NOT NULL AND refs = 0)),
    CHECK (state <> 'live' OR (size IS NOT NULL AND sha256 IS NOT NULL AND refs > 0)),
    CHECK (state <> 'dead' OR (delete_at IS NOT NULL AND forget_at IS NOT NULL AND refs = 0))
);

CREATE INDEX objects_writing ON objects (lease_until) WHERE state = 'writing';
CREATE INDEX objects_dead ON objects (delete_at) WHERE state = 'dead';

-- What users see.
CREATE TABLE files (
    id            UUID NOT NULL PRIMARY KEY,
    tenant        TEXT NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    content_type  TEXT NOT NULL,
    size          BIGINT NOT NULL,
    sha256        BYTEA,
    metadata      JSONB NOT NULL,
    version       BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    object_id     UUID NOT NULL REFERENCES objects (id),
    created_at    TIMESTAMPTZ NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL,
    expires_at    TIMESTAMPTZ,
    trashed_at    TIMESTAMPTZ,
    created_by    TEXT NOT NULL
);

CREATE INDEX files_by_created_at ON files (tenant, created_at, id) WHERE trashed_at IS NULL;
CREATE INDEX files_by_name ON files (tenant, name, id) WHERE trashed_at IS NULL;
CREATE INDEX files_in_trash_by_created_at ON files (tenant, created_at, id) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_in_trash_by_name ON files (tenant, name, id) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_by_object ON files (object_id);
CREATE INDEX files_trashed ON files (trashed_at) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

-- What happened, written in the transaction that did it.
CREATE TABLE events (
    id          UUID NOT NULL PRIMARY KEY,
    tenant      TEXT NOT NULL,
    at          TIMESTAMPTZ NOT NULL,
    subject     TEXT NOT NULL,
    action      TEXT NOT NULL,
    target      TEXT NOT NULL,
    request_id  TEXT,
    remote_ip   TEXT,
    detail      JSONB NOT NULL
);

CREATE INDEX events_by_target ON events (tenant, target);
