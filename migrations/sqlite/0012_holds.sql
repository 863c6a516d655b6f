-- Expands only: a binary that knows no more than 0011 goes on working. It knows nothing of holds, so none is to
-- be set before the last one is gone.

-- Until when a file can be neither deleted nor replaced, and whether it can't be until that is lifted. What is
-- held is in no trash.
ALTER TABLE files ADD COLUMN retention_until INTEGER;
ALTER TABLE files ADD COLUMN legal_hold INTEGER NOT NULL DEFAULT FALSE CHECK (
    trashed_at IS NULL OR (NOT legal_hold AND (retention_until IS NULL OR retention_until <= trashed_at))
);

-- In place of files_expiring, which goes once no binary asks by it any more: when a file expires that has no
-- legal hold, however late its retention ends.
CREATE INDEX files_due ON files (CASE WHEN retention_until > expires_at THEN retention_until ELSE expires_at END)
    WHERE expires_at IS NOT NULL AND NOT legal_hold;
