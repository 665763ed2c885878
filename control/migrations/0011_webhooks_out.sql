-- Where events are pushed to: endpoints of tenants, how far each has got, and what it did not take.

CREATE TABLE webhook_endpoints (
    endpoint_id  TEXT   NOT NULL PRIMARY KEY,
    tenant_id    TEXT   NOT NULL REFERENCES tenants (tenant_id),
    -- the address, the filter, the mask and the signing secrets, sealed for the tenant: addresses carry secrets too
    sealed       BLOB   NOT NULL,
    -- 'active', 'paused' (by a person), 'disabled' (by the server)
    state        TEXT   NOT NULL,
    state_reason TEXT,
    state_at     BIGINT NOT NULL,
    -- raised with every change, so that a server sees which it has to read again
    revision     BIGINT NOT NULL,
    -- whether the event webhook_disabled was logged, and webhook_enabled was not yet
    is_told      BIGINT NOT NULL DEFAULT 0,
    created_at   BIGINT NOT NULL,
    created_by   TEXT   NOT NULL,
    removed_at   BIGINT
);

-- How far an endpoint has got in one spool's log.
CREATE TABLE webhook_positions (
    endpoint_id     TEXT   NOT NULL REFERENCES webhook_endpoints (endpoint_id),
    incarnation     TEXT   NOT NULL,
    -- everything at or below it was delivered, is in webhook_undelivered, or was not wanted
    cursor_lsn      BIGINT NOT NULL,
    -- when the last event at or below it was recorded, or when the end of the log was reached
    through_at      BIGINT,
    delivered       BIGINT NOT NULL,
    -- numbers of the log that had left the lake's memory before they were read; those of other tenants count too
    skipped         BIGINT NOT NULL,
    circuit_open    BIGINT NOT NULL,
    next_probe_at   BIGINT,
    failing_since   BIGINT,
    last_error      TEXT,
    last_success_at BIGINT,
    saved_at        BIGINT NOT NULL,
    PRIMARY KEY (endpoint_id, incarnation)
);

-- Events that an endpoint did not take: ids only, no content.
CREATE TABLE webhook_undelivered (
    endpoint_id      TEXT   NOT NULL REFERENCES webhook_endpoints (endpoint_id),
    incarnation      TEXT   NOT NULL,
    lsn              BIGINT NOT NULL,
    event_id         TEXT   NOT NULL,
    event_type       TEXT   NOT NULL,
    -- events of one message are delivered in order
    message_id       TEXT,
    -- 'parked' (tried again, or behind one that is), 'failed' (given up)
    state            TEXT   NOT NULL,
    attempts         BIGINT NOT NULL,
    first_attempt_at BIGINT,
    next_attempt_at  BIGINT,
    last_error       TEXT,
    PRIMARY KEY (endpoint_id, incarnation, lsn)
);

CREATE INDEX webhook_undelivered_by_state ON webhook_undelivered (endpoint_id, state);

-- What is sent again, by a person's wish.
CREATE TABLE webhook_replays (
    replay_id   TEXT   NOT NULL PRIMARY KEY,
    endpoint_id TEXT   NOT NULL REFERENCES webhook_endpoints (endpoint_id),
    tenant_id   TEXT   NOT NULL REFERENCES tenants (tenant_id),
    -- JSON: from, to, event_types, message_id, failed
    selection   TEXT   NOT NULL,
    -- 'running', 'done', 'cancelled', 'failed'
    state       TEXT   NOT NULL,
    -- JSON: the place of the last event that was settled
    position    TEXT,
    delivered   BIGINT NOT NULL,
    failed      BIGINT NOT NULL,
    last_error  TEXT,
    -- who works on it, and until when nobody else does
    runner      TEXT,
    lease_until BIGINT,
    created_at  BIGINT NOT NULL,
    created_by  TEXT   NOT NULL,
    ended_at    BIGINT
);

CREATE INDEX webhook_replays_by_endpoint ON webhook_replays (endpoint_id, created_at);
