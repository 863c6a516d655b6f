-- Expands only: a binary that knows no more than 0005 goes on working.

-- Slugs that lead to a file or to an external URL. A deleted one stays for a while, reserved to its tenant.
CREATE TABLE links (
    slug          TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    url           TEXT,
    file_id       BLOB,
    password      TEXT,
    disposition   TEXT,
    disabled      INTEGER NOT NULL,
    expires_at    INTEGER,
    max_uses      INTEGER,
    uses          INTEGER NOT NULL,
    last_used_at  INTEGER,
    revision      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    deleted_at    INTEGER,
    CHECK ((url IS NULL) <> (file_id IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX links_by_tenant ON links (tenant, slug) WHERE deleted_at IS NULL;
CREATE INDEX links_by_file ON links (tenant, file_id, slug) WHERE deleted_at IS NULL AND file_id IS NOT NULL;
CREATE INDEX links_deleted ON links (deleted_at) WHERE deleted_at IS NOT NULL;
