-- Expands only: a binary that knows no more than 0005 goes on working.

-- Slugs that lead to a file or to an external URL. A deleted one stays for a while, reserved to its tenant.
CREATE TABLE links (
    slug          TEXT COLLATE "C" PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    url           TEXT,
    file_id       UUID,
    password      TEXT,
    disposition   TEXT,
    disabled      BOOLEAN NOT NULL,
    expires_at    TIMESTAMPTZ,
    max_uses      BIGINT,
    uses          BIGINT NOT NULL,
    last_used_at  TIMESTAMPTZ,
    revision      BIGINT NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL,
    created_by    TEXT NOT NULL,
    deleted_at    TIMESTAMPTZ,
    CHECK ((url IS NULL) <> (file_id IS NULL))
);

CREATE INDEX links_by_tenant ON links (tenant, slug) WHERE deleted_at IS NULL;
CREATE INDEX links_by_file ON links (tenant, file_id, slug) WHERE deleted_at IS NULL AND file_id IS NOT NULL;
CREATE INDEX links_deleted ON links (deleted_at) WHERE deleted_at IS NOT NULL;
