-- Expands only: a binary that knows no more than 0004 goes on working, for triggers keep the table.

-- The texts, numbers and truth values in files' metadata, to find files by them: each with the name of
-- the member that it is, at whatever depth, or with none in an array. A text's first 100 characters, a number
-- rounded, true as 1 and false as 0. What is found is compared with the metadata itself. (PostgreSQL has
-- an index of the whole.)
CREATE TABLE file_terms (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    ANY NOT NULL,
    file_id  BLOB NOT NULL,
    PRIMARY KEY (tenant, key, value, file_id)
) STRICT, WITHOUT ROWID;

CREATE VIEW file_term_sources (tenant, key, value, file_id) AS
SELECT files.tenant, CASE typeof(member.key) WHEN 'text' THEN member.key ELSE '' END,
       CASE member.type WHEN 'text' THEN substr(member.atom, 1, 100)
                        WHEN 'real' THEN CAST(round(member.atom) AS INTEGER)
                        ELSE member.atom END,
       files.id
FROM files, json_tree(files.metadata) member
WHERE files.metadata <> '{}'
  AND (member.type IN ('text', 'true', 'false')
       -- Beyond, not every integer is a number of its own.
       OR member.type IN ('integer', 'real') AND member.atom BETWEEN -9007199254740991 AND 9007199254740991);

INSERT INTO file_terms SELECT tenant, key, value, file_id FROM file_term_sources;

CREATE TRIGGER file_terms_begin AFTER INSERT ON files WHEN NEW.metadata <> '{}'
BEGIN
    INSERT OR IGNORE INTO file_terms SELECT tenant, key, value, file_id FROM file_term_sources WHERE file_id = NEW.id;
END;

-- Before: what the view shows is what is to go.
CREATE TRIGGER file_terms_leave BEFORE UPDATE OF metadata ON files WHEN OLD.metadata <> NEW.metadata
BEGIN
    DELETE FROM file_terms WHERE (tenant, key, value, file_id) IN (
        SELECT tenant, key, value, file_id FROM file_term_sources WHERE file_id = OLD.id);
END;

CREATE TRIGGER file_terms_change AFTER UPDATE OF metadata ON files WHEN OLD.metadata <> NEW.metadata
BEGIN
    INSERT OR IGNORE INTO file_terms SELECT tenant, key, value, file_id FROM file_term_sources WHERE file_id = NEW.id;
END;

CREATE TRIGGER file_terms_end BEFORE DELETE ON files WHEN OLD.metadata <> '{}'
BEGIN
    DELETE FROM file_terms WHERE (tenant, key, value, file_id) IN (
        SELECT tenant, key, value, file_id FROM file_term_sources WHERE file_id = OLD.id);
END;
