-- Expands only: a binary that knows no more than 0002 goes on working.

-- Raised by each start and each hour, here and in the store's marker, which is never ahead of `raising`:
-- a database that says less than the marker was restored from a backup.
ALTER TABLE deployment ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
-- What the marker may say by now: `generation`, or one more while that is being raised.
ALTER TABLE deployment ADD COLUMN raising INTEGER NOT NULL DEFAULT 0;
