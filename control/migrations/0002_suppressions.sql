-- Whom not to write to: what is in force, and an append-only log that senders tail.
--
-- Addresses are found by a keyed hash, so that an erased person leaves a tombstone; the address itself lies
-- beside it, sealed for its tenant, and may be null.

CREATE TABLE suppressions (
    -- whose mail is kept back; 'platform' for reach global
    tenant_id      TEXT   NOT NULL REFERENCES tenants (tenant_id),
    -- HMAC-SHA-256 of the normalised address
    address_hash   BLOB   NOT NULL,
    -- each reason by itself, so that lifting one leaves the others in force
    reason         TEXT   NOT NULL CHECK (reason IN ('unsubscribe', 'cold_opt_out', 'complaint', 'hard_bounce',
                                                     'full_mailbox', 'manual', 'legal')),
    reach          TEXT   NOT NULL CHECK (reach IN ('bulk', 'tenant', 'global')),
    since          BIGINT NOT NULL,
    -- who or what put it here: 'feedback', 'cli:anna'
    actor          TEXT   NOT NULL,
    -- in words, where somebody gave them
    note           TEXT,
    -- the event that led to it
    event_id       TEXT   NOT NULL,
    sealed_address BLOB,
    PRIMARY KEY (tenant_id, address_hash, reason)
);

CREATE INDEX suppressions_by_since ON suppressions (tenant_id, since);

-- No foreign key: the record outlives what it speaks of.
CREATE TABLE suppression_log (
    -- 1, 2, 3 … without gaps, as in audit_log
    seq          INTEGER NOT NULL PRIMARY KEY,
    at           BIGINT  NOT NULL,
    change       TEXT    NOT NULL CHECK (change IN ('added', 'removed')),
    tenant_id    TEXT    NOT NULL,
    address_hash BLOB    NOT NULL,
    reason       TEXT    NOT NULL,
    reach        TEXT    NOT NULL,
    since        BIGINT  NOT NULL,
    actor        TEXT    NOT NULL,
    note         TEXT,
    event_id     TEXT    NOT NULL
);

CREATE TRIGGER suppression_log_refuses_update BEFORE UPDATE ON suppression_log
BEGIN
    SELECT RAISE(ABORT, 'suppression_log is append-only: a row is never changed');
END;

CREATE TRIGGER suppression_log_refuses_delete BEFORE DELETE ON suppression_log
BEGIN
    SELECT RAISE(ABORT, 'suppression_log is append-only: a row is never deleted');
END;

CREATE TRIGGER suppression_log_refuses_replace BEFORE INSERT ON suppression_log
WHEN EXISTS (SELECT 1 FROM suppression_log WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'suppression_log is append-only: a row is never replaced');
END;
