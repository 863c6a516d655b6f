-- Expands only: a binary that knows no more than 0014 goes on working. It writes the table anew, and all of its
-- indexes: nothing is written meanwhile, for about a minute of each million files.

-- Pages whose filter is a range, and whose order is another: such a range consists of few values of these, and
-- behind each the files lie in order. A folder is all of the name up to its last slash; a class of sizes is those of as
-- many digits, the first of which is the same.
CREATE INDEX files_by_folder ON files (tenant, rtrim(name, replace(name, '/', '')), created_at, id)
    WHERE trashed_at IS NULL;
CREATE INDEX files_by_size_class ON files (
    tenant,
    (10 * length(CAST(size AS TEXT)) + CAST(substr(CAST(size AS TEXT), 1, 1) AS INTEGER)),
    created_at, id
) INCLUDE (size) WHERE trashed_at IS NULL;
CREATE INDEX files_by_size_class_and_name ON files (
    tenant,
    (10 * length(CAST(size AS TEXT)) + CAST(substr(CAST(size AS TEXT), 1, 1) AS INTEGER)),
    name, id
) INCLUDE (size) WHERE trashed_at IS NULL;

-- Which values metadata may have: two bits of 64 for each text, number, truth value and null, and the member of the
-- object that it lies in, at whatever depth. Metadata that contains others has all of their bits, for what
-- @> takes for equal has one hash. So an index that has them tells nearly all files that don't fit, without reading one.
CREATE FUNCTION metadata_signature(metadata JSONB) RETURNS BIGINT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(bit_or((1::BIGINT << (hash & 63)::INTEGER) | (1::BIGINT << ((hash >> 6) & 63)::INTEGER)), 0)
    FROM jsonb_each(metadata) AS member (key, value),
         jsonb_path_query(value, 'strict $.** ? (@.type() != "object" && @.type() != "array")') AS leaf,
         jsonb_hash_extended(leaf, hashtextextended(key, 0)) AS hash
$$;

-- They are made again below, with the signature.
DROP INDEX files_by_created_at, files_by_updated_at, files_by_name, files_by_size, files_by_content_type;

ALTER TABLE files ADD COLUMN signature BIGINT GENERATED ALWAYS AS (
    CASE WHEN metadata = '{}' THEN 0 ELSE metadata_signature(metadata) END
) STORED;

CREATE INDEX files_by_created_at ON files (tenant, created_at, id) INCLUDE (signature) WHERE trashed_at IS NULL;
CREATE INDEX files_by_updated_at ON files (tenant, updated_at, id) INCLUDE (signature) WHERE trashed_at IS NULL;
CREATE INDEX files_by_name ON files (tenant, name, id) INCLUDE (signature) WHERE trashed_at IS NULL;
CREATE INDEX files_by_size ON files (tenant, size, id) INCLUDE (signature) WHERE trashed_at IS NULL;
CREATE INDEX files_by_content_type ON files (tenant, content_type, created_at, id) INCLUDE (signature)
    WHERE trashed_at IS NULL;
