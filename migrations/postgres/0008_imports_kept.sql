-- Expands only: a binary that knows no more than 0007 goes on working.

-- What has ended is found by when, to be removed once it was kept for long enough.
CREATE INDEX imports_finished ON imports (finished_at) WHERE finished_at IS NOT NULL;
