-- Expands only: a binary that knows no more than 0014 goes on working.

-- Pages whose filter is a range, and whose order is another: such a range consists of few values of these, and
-- behind each the files lie in order. A folder is all of the name up to its last slash, the top one all up to its first;
-- a class of sizes is those of as many digits, the first of which is the same.
CREATE INDEX files_by_folder ON files (tenant, rtrim(name, replace(name, '/', '')), created_at, id, name)
    WHERE trashed_at IS NULL;
CREATE INDEX files_by_top_folder ON files (tenant, substr(name, 1, instr(name, '/')), created_at, id, name)
    WHERE trashed_at IS NULL;
CREATE INDEX files_by_size_class ON files (
    tenant,
    (10 * length(CAST(size AS TEXT)) + CAST(substr(CAST(size AS TEXT), 1, 1) AS INTEGER)),
    created_at, id, size
) WHERE trashed_at IS NULL;

-- The terms of 0005, those of one value now in the order of their files' creation.
DROP TRIGGER file_terms_begin;
DROP TRIGGER file_terms_leave;
DROP TRIGGER file_terms_change;
DROP TRIGGER file_terms_end;
DROP VIEW file_term_sources;
DROP TABLE file_terms;

CREATE TABLE file_terms (
    tenant      TEXT NOT NULL,
    key         TEXT NOT NULL,
    value       ANY NOT NULL,
    created_at  INTEGER NOT NULL,
    file_id     BLOB NOT NULL,
    PRIMARY KEY (tenant, key, value, created_at, file_id)
) STRICT, WITHOUT ROWID;

CREATE VIEW file_term_sources (tenant, key, value, created_at, file_id) AS
SELECT files.tenant, CASE typeof(member.key) WHEN 'text' THEN member.key ELSE '' END,
       CASE member.type WHEN 'text' THEN substr(member.atom, 1, 100)
                        WHEN 'real' THEN CAST(round(member.atom) AS INTEGER)
                        ELSE member.atom END,
       files.created_at, files.id
FROM files, json_tree(files.metadata) member
WHERE files.metadata <> '{}'
  AND (member.type IN ('text', 'true', 'false')
       -- Beyond, not every integer is a number of its own.
       OR member.type IN ('integer', 'real') AND member.atom BETWEEN -9007199254740991 AND 9007199254740991);

INSERT OR IGNORE INTO file_terms
SELECT tenant, key, value, created_at, file_id FROM file_term_sources ORDER BY tenant, key, value, created_at, file_id;

CREATE TRIGGER file_terms_begin AFTER INSERT ON files WHEN NEW.metadata <> '{}'
BEGIN
    INSERT OR IGNORE INTO file_terms
    SELECT tenant, key, value, created_at, file_id FROM file_term_sources WHERE file_id = NEW.id;
END;

-- Before: what the view shows is what is to go.
CREATE TRIGGER file_terms_leave BEFORE UPDATE OF metadata ON files WHEN OLD.metadata <> NEW.metadata
BEGIN
    DELETE FROM file_terms WHERE (tenant, key, value, created_at, file_id) IN (
        SELECT tenant, key, value, created_at, file_id FROM file_term_sources WHERE file_id = OLD.id);
END;

CREATE TRIGGER file_terms_change AFTER UPDATE OF metadata ON files WHEN OLD.metadata <> NEW.metadata
BEGIN
    INSERT OR IGNORE INTO file_terms
    SELECT tenant, key, value, created_at, file_id FROM file_term_sources WHERE file_id = NEW.id;
END;

CREATE TRIGGER file_terms_end BEFORE DELETE ON files WHEN OLD.metadata <> '{}'
BEGIN
    DELETE FROM file_terms WHERE (tenant, key, value, created_at, file_id) IN (
        SELECT tenant, key, value, created_at, file_id FROM file_term_sources WHERE file_id = OLD.id);
END;
