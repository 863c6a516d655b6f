-- Expands only: a binary that knows no more than 0010 goes on writing events, which are then sealed by
-- a newer one. What it inserts as JSONB becomes text by an assignment cast.

-- What is hashed is the text as it is stored. This writes the table anew, once.
ALTER TABLE events ALTER COLUMN detail TYPE TEXT;

-- An event's place in the chain of its tenant, given after its transaction was committed.
ALTER TABLE events ADD COLUMN seq BIGINT;
ALTER TABLE events ADD COLUMN hash BYTEA;

CREATE INDEX events_unsealed ON events (at, id) WHERE seq IS NULL;
CREATE UNIQUE INDEX events_by_seq ON events (tenant, seq) WHERE seq IS NOT NULL;
CREATE INDEX events_by_subject ON events (tenant, subject, seq) WHERE seq IS NOT NULL;
CREATE INDEX events_by_action ON events (tenant, action, seq) WHERE seq IS NOT NULL;

-- Where each tenant's chain ends. seq counts from 1, and so it is how many events were ever sealed.
CREATE TABLE audit_heads (
    tenant     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq        BIGINT NOT NULL,
    hash       BYTEA NOT NULL,
    at         TIMESTAMPTZ NOT NULL,
    -- The key that the signature was made with; null: there was none.
    key_id     TEXT,
    signature  TEXT
);

-- Up to where events were removed because of their age.
CREATE TABLE audit_checkpoints (
    tenant     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq        BIGINT NOT NULL,
    hash       BYTEA NOT NULL,
    at         TIMESTAMPTZ NOT NULL,
    key_id     TEXT,
    signature  TEXT
);

-- Who of several processes does what needs to be done by one.
CREATE TABLE leases (
    name         TEXT NOT NULL PRIMARY KEY,
    holder       UUID NOT NULL,
    lease_until  TIMESTAMPTZ NOT NULL
);

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END $$;

CREATE FUNCTION audit_event_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq IS NULL
        OR OLD.seq > COALESCE((SELECT c.seq FROM audit_checkpoints c WHERE c.tenant = OLD.tenant), 0)
    THEN
        RAISE EXCEPTION 'events are removed up to a checkpoint only';
    END IF;
    RETURN OLD;
END $$;

CREATE TRIGGER events_come_unsealed BEFORE INSERT ON events FOR EACH ROW
WHEN (NEW.seq IS NOT NULL OR NEW.hash IS NOT NULL)
EXECUTE FUNCTION audit_refuse('events come unsealed');

CREATE TRIGGER events_stay BEFORE UPDATE ON events FOR EACH ROW
WHEN (OLD.seq IS NOT NULL OR NEW.seq IS NULL OR NEW.hash IS NULL
    OR (NEW.id, NEW.tenant, NEW.at, NEW.subject, NEW.action, NEW.target, NEW.request_id, NEW.remote_ip, NEW.detail)
       IS DISTINCT FROM
       (OLD.id, OLD.tenant, OLD.at, OLD.subject, OLD.action, OLD.target, OLD.request_id, OLD.remote_ip, OLD.detail))
EXECUTE FUNCTION audit_refuse('events are only added to');

CREATE TRIGGER events_are_kept BEFORE DELETE ON events FOR EACH ROW
EXECUTE FUNCTION audit_event_kept();

CREATE TRIGGER events_are_not_truncated BEFORE TRUNCATE ON events
EXECUTE FUNCTION audit_refuse('events are removed up to a checkpoint only');

CREATE TRIGGER audit_heads_advance BEFORE UPDATE ON audit_heads FOR EACH ROW
WHEN (NEW.tenant IS DISTINCT FROM OLD.tenant OR NEW.seq <= OLD.seq)
EXECUTE FUNCTION audit_refuse('the head of a chain only advances');

CREATE TRIGGER audit_heads_stay BEFORE DELETE ON audit_heads FOR EACH ROW
EXECUTE FUNCTION audit_refuse('the head of a chain stays');

CREATE TRIGGER audit_heads_are_not_truncated BEFORE TRUNCATE ON audit_heads
EXECUTE FUNCTION audit_refuse('the head of a chain stays');

CREATE TRIGGER audit_checkpoints_advance BEFORE UPDATE ON audit_checkpoints FOR EACH ROW
WHEN (NEW.tenant IS DISTINCT FROM OLD.tenant OR NEW.seq <= OLD.seq)
EXECUTE FUNCTION audit_refuse('a checkpoint only advances');

CREATE TRIGGER audit_checkpoints_stay BEFORE DELETE ON audit_checkpoints FOR EACH ROW
EXECUTE FUNCTION audit_refuse('a checkpoint stays');

CREATE TRIGGER audit_checkpoints_are_not_truncated BEFORE TRUNCATE ON audit_checkpoints
EXECUTE FUNCTION audit_refuse('a checkpoint stays');
