-- What a deployment is: one row, written by the first start.
CREATE TABLE deployment (
    -- Not INTEGER: that would be the rowid, which counts on for each row and has no default.
    singleton    INT NOT NULL PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    environment  TEXT NOT NULL,
    database_id  BLOB NOT NULL,
    -- Whether the store's marker has been written: once it has, its absence means the wrong store.
    marked       INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The bytes at one key of the object store, and the row that vouches for the key. The key follows
-- from tenant and id. No key is written before its row is committed here, and no row goes while
-- bytes could still be at its key or still arrive.
CREATE TABLE objects (
    id           BLOB NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('writing', 'live', 'dead')),
    -- Counts the writers that the object has had: only the last one may commit.
    epoch        INTEGER NOT NULL,
    -- Files (trashed ones too) that refer to the object.
    refs         INTEGER NOT NULL CHECK (refs >= 0),
    size         INTEGER,
    sha256       BLOB,
    -- While writing: until when the writer may commit.
    lease_until  INTEGER,
    -- From when on no call to the store can write the key any more.
    quiet_at     INTEGER NOT NULL,
    -- While dead: from when on the reaper deletes the key, and from when on the row may go.
    delete_at    INTEGER,
    forget_at    INTEGER,
    created_at   INTEGER NOT NULL,
    CHECK (state <> 'writing' OR (lease_until IS NOT NULL AND refs = 0)),
    CHECK (state <> 'live' OR (size IS NOT NULL AND sha256 IS NOT NULL AND refs > 0)),
    CHECK (state <> 'dead' OR (delete_at IS NOT NULL AND forget_at IS NOT NULL AND refs = 0))
) STRICT;

CREATE INDEX objects_writing ON objects (lease_until) WHERE state = 'writing';
CREATE INDEX objects_dead ON objects (delete_at) WHERE state = 'dead';

-- What users see.
CREATE TABLE files (
    id            BLOB NOT NULL PRIMARY KEY,
    tenant        TEXT NOT NULL,
    name          TEXT NOT NULL,
    content_type  TEXT NOT NULL,
    size          INTEGER NOT NULL,
    sha256        BLOB,
    metadata      TEXT NOT NULL,
    version       INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    object_id     BLOB NOT NULL REFERENCES objects (id),
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    trashed_at    INTEGER,
    created_by    TEXT NOT NULL
) STRICT;

CREATE INDEX files_by_created_at ON files (tenant, created_at, id) WHERE trashed_at IS NULL;
CREATE INDEX files_by_name ON files (tenant, name, id) WHERE trashed_at IS NULL;
CREATE INDEX files_in_trash_by_created_at ON files (tenant, created_at, id) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_in_trash_by_name ON files (tenant, name, id) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_by_object ON files (object_id);
CREATE INDEX files_trashed ON files (trashed_at) WHERE trashed_at IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

-- What happened, written in the transaction that did it.
CREATE TABLE events (
    id          BLOB NOT NULL PRIMARY KEY,
    tenant      TEXT NOT NULL,
    at          INTEGER NOT NULL,
    subject     TEXT NOT NULL,
    action      TEXT NOT NULL,
    target      TEXT NOT NULL,
    request_id  TEXT,
    remote_ip   TEXT,
    detail      TEXT NOT NULL
) STRICT;

CREATE INDEX events_by_target ON events (tenant, target);
