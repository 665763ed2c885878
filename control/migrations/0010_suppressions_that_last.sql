-- Suppressions that end by themselves, the sum of the list, changes that no event tells yet, and entries that a burst
-- put in doubt.

-- when it ends by itself; null for never
ALTER TABLE suppressions ADD COLUMN expires_at BIGINT;

CREATE INDEX suppressions_by_expiry ON suppressions (expires_at) WHERE expires_at IS NOT NULL;

-- A mailbox was full: one row for each message that was told so, on the day that it was told first.
CREATE TABLE full_mailboxes (
    tenant_id    TEXT   NOT NULL,
    address_hash BLOB   NOT NULL,
    message_id   TEXT   NOT NULL,
    -- days since the epoch, UTC
    day          BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, address_hash, message_id)
);

CREATE INDEX full_mailboxes_by_day ON full_mailboxes (day);

-- One row: what the list adds up to after the latest line of its log. Changed with it, in one transaction, so that
-- entries that vanish otherwise are missed.
CREATE TABLE suppression_totals (
    id              INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    -- the latest line of suppression_log, or above it where the list goes on from another store's
    seq             BIGINT  NOT NULL,
    entries         BIGINT  NOT NULL,
    -- 128 bits in hexadecimal digits: the sum of the entries' keyed hashes, in any order
    digest          TEXT    NOT NULL,
    -- what was last handed to the lake for safe-keeping
    recorded_seq    BIGINT  NOT NULL,
    recorded_digest TEXT    NOT NULL
);

-- Changes of the list that no event tells yet, sealed for their tenant; gone once the event is durable.
CREATE TABLE suppression_untold (
    seq       INTEGER NOT NULL PRIMARY KEY,
    tenant_id TEXT    NOT NULL,
    sealed    BLOB    NOT NULL
);

-- Bursts of bounces that may be the provider's fault, each for a person to decide.
CREATE TABLE suppression_reviews (
    review_id  TEXT   NOT NULL PRIMARY KEY,
    provider   TEXT   NOT NULL,
    opened_at  BIGINT NOT NULL,
    -- bounces up to here belong to it
    until_at   BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('open', 'released', 'confirmed')),
    decided_at BIGINT,
    decided_by TEXT
);

-- Entries that are not in force until their review is decided.
CREATE TABLE suppression_quarantine (
    review_id      TEXT   NOT NULL REFERENCES suppression_reviews (review_id),
    tenant_id      TEXT   NOT NULL REFERENCES tenants (tenant_id),
    address_hash   BLOB   NOT NULL,
    reason         TEXT   NOT NULL,
    reach          TEXT   NOT NULL,
    since          BIGINT NOT NULL,
    actor          TEXT   NOT NULL,
    note           TEXT,
    event_id       TEXT   NOT NULL,
    sealed_address BLOB,
    expires_at     BIGINT,
    PRIMARY KEY (tenant_id, address_hash, reason)
);

CREATE INDEX suppression_quarantine_by_review ON suppression_quarantine (review_id);
