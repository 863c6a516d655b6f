-- Expands only: a binary that knows no more than 0014 goes on working. Until it is done no file is written, for it
-- reads all of them.

-- Pages whose filter is a range, and whose order is another: such a range consists of few values of these, and
-- behind each the files lie in order. A folder is all of the name up to its last slash, the top one all up to its first;
-- a class of sizes is those of as many digits, the first of which is the same.
-- (With the name an index of an expression of it is read alone.)
CREATE INDEX files_by_folder ON files (tenant, rtrim(name, replace(name, '/', '')), created_at, id) INCLUDE (name)
    WHERE trashed_at IS NULL;
CREATE INDEX files_by_top_folder ON files (tenant, substr(name, 1, strpos(name, '/')), created_at, id) INCLUDE (name)
    WHERE trashed_at IS NULL;
CREATE INDEX files_by_size_class ON files (
    tenant,
    (10 * length(CAST(size AS TEXT)) + CAST(substr(CAST(size AS TEXT), 1, 1) AS INTEGER)),
    created_at, id
) INCLUDE (size) WHERE trashed_at IS NULL;

-- The values in files' metadata that are no objects or arrays, each with the member of the whole that it lies in, at
-- whatever depth: a row for each, those of one in the order of their files' creation. A hash, so that what is found is
-- compared with the metadata itself; what @> takes for equal has the same. (SQLite has terms since 0005.)
CREATE TABLE file_terms (
    term        BIGINT NOT NULL,
    created_at  TIMESTAMPTZ NOT NULL,
    file_id     UUID NOT NULL,
    PRIMARY KEY (term, created_at, file_id)
);

CREATE FUNCTION metadata_terms(tenant TEXT, metadata JSONB) RETURNS SETOF BIGINT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_hash_extended(leaf, hashtextextended(member.key, hashtextextended(tenant, 0)))
    FROM jsonb_each(metadata) AS member (key, value),
         jsonb_path_query(member.value, 'strict $.** ? (@.type() != "object" && @.type() != "array")') AS leaf
$$;

CREATE FUNCTION file_terms_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM file_terms
        WHERE term IN (SELECT metadata_terms(OLD.tenant, OLD.metadata))
          AND created_at = OLD.created_at AND file_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        -- As metadata_terms has it, whose call would take as long again.
        INSERT INTO file_terms
        SELECT jsonb_hash_extended(leaf, hashtextextended(member.key, hashtextextended(NEW.tenant, 0))),
               NEW.created_at, NEW.id
        FROM jsonb_each(NEW.metadata) AS member (key, value),
             jsonb_path_query(member.value, 'strict $.** ? (@.type() != "object" && @.type() != "array")') AS leaf
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;

-- Most files have no metadata, and pay nothing for it.
CREATE TRIGGER file_terms_begin AFTER INSERT ON files
    FOR EACH ROW WHEN (NEW.metadata <> '{}') EXECUTE FUNCTION file_terms_keep();
CREATE TRIGGER file_terms_change AFTER UPDATE OF metadata ON files
    FOR EACH ROW WHEN (OLD.metadata <> NEW.metadata) EXECUTE FUNCTION file_terms_keep();
CREATE TRIGGER file_terms_end AFTER DELETE ON files
    FOR EACH ROW WHEN (OLD.metadata <> '{}') EXECUTE FUNCTION file_terms_keep();

INSERT INTO file_terms
SELECT DISTINCT term, created_at, id FROM files, metadata_terms(tenant, metadata) AS term WHERE metadata <> '{}';
