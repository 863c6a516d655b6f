-- Expands only: a binary that knows no more than 0013 goes on working.

-- The newest migration that a binary has to know: one that knows none as new refuses to start. A migration that takes away
-- what older binaries need raises it, in its own transaction.
CREATE TABLE lowest_binary (
    migration  INTEGER NOT NULL
) STRICT;
INSERT INTO lowest_binary (migration) VALUES (1);
