-- Expands only: a binary that knows no more than 0010 goes on writing events, which are then sealed by
-- a newer one.

-- An event's place in the chain of its tenant, given after its transaction was committed.
ALTER TABLE events ADD COLUMN seq INTEGER;
ALTER TABLE events ADD COLUMN hash BLOB;

CREATE INDEX events_unsealed ON events (at, id) WHERE seq IS NULL;
CREATE UNIQUE INDEX events_by_seq ON events (tenant, seq) WHERE seq IS NOT NULL;
CREATE INDEX events_by_subject ON events (tenant, subject, seq) WHERE seq IS NOT NULL;
CREATE INDEX events_by_action ON events (tenant, action, seq) WHERE seq IS NOT NULL;

-- Where each tenant's chain ends. seq counts from 1, and so it is how many events were ever sealed.
CREATE TABLE audit_heads (
    tenant     TEXT NOT NULL PRIMARY KEY,
    seq        INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    at         INTEGER NOT NULL,
    -- The key that the signature was made with; null: there was none.
    key_id     TEXT,
    signature  TEXT
) STRICT;

-- Up to where events were removed because of their age.
CREATE TABLE audit_checkpoints (
    tenant     TEXT NOT NULL PRIMARY KEY,
    seq        INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    at         INTEGER NOT NULL,
    key_id     TEXT,
    signature  TEXT
) STRICT;

-- Who of several processes does what needs to be done by one.
CREATE TABLE leases (
    name         TEXT NOT NULL PRIMARY KEY,
    holder       BLOB NOT NULL,
    lease_until  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER events_come_unsealed BEFORE INSERT ON events
WHEN NEW.seq IS NOT NULL OR NEW.hash IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'events come unsealed');
END;

CREATE TRIGGER events_stay BEFORE UPDATE ON events
WHEN OLD.seq IS NOT NULL OR NEW.seq IS NULL OR NEW.hash IS NULL
    OR NEW.id IS NOT OLD.id OR NEW.tenant IS NOT OLD.tenant OR NEW.at IS NOT OLD.at
    OR NEW.subject IS NOT OLD.subject OR NEW.action IS NOT OLD.action OR NEW.target IS NOT OLD.target
    OR NEW.request_id IS NOT OLD.request_id OR NEW.remote_ip IS NOT OLD.remote_ip
    OR NEW.detail IS NOT OLD.detail
BEGIN
    SELECT RAISE(ABORT, 'events are only added to');
END;

CREATE TRIGGER events_are_kept BEFORE DELETE ON events
WHEN OLD.seq IS NULL
    OR OLD.seq > COALESCE((SELECT seq FROM audit_checkpoints WHERE tenant = OLD.tenant), 0)
BEGIN
    SELECT RAISE(ABORT, 'events are removed up to a checkpoint only');
END;

CREATE TRIGGER audit_heads_advance BEFORE UPDATE ON audit_heads
WHEN NEW.tenant IS NOT OLD.tenant OR NEW.seq <= OLD.seq
BEGIN
    SELECT RAISE(ABORT, 'the head of a chain only advances');
END;

CREATE TRIGGER audit_heads_stay BEFORE DELETE ON audit_heads
BEGIN
    SELECT RAISE(ABORT, 'the head of a chain stays');
END;

CREATE TRIGGER audit_checkpoints_advance BEFORE UPDATE ON audit_checkpoints
WHEN NEW.tenant IS NOT OLD.tenant OR NEW.seq <= OLD.seq
BEGIN
    SELECT RAISE(ABORT, 'a checkpoint only advances');
END;

CREATE TRIGGER audit_checkpoints_stay BEFORE DELETE ON audit_checkpoints
BEGIN
    SELECT RAISE(ABORT, 'a checkpoint stays');
END;
