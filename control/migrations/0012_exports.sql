-- Exports: what each connector is to load, how far each batch is, and what is to be loaded again.

CREATE TABLE export_batches (
    connector       TEXT   NOT NULL,
    -- names the slice: the same rows have the same id
    batch_id        TEXT   NOT NULL,
    -- the order in which batches of a connector are loaded
    number          BIGINT NOT NULL,
    source_table    TEXT   NOT NULL,
    -- 'add', 'replace', 'delete'
    change          TEXT   NOT NULL,
    -- the spool's UUID; empty where rows are named one by one (after an erasure)
    incarnation     TEXT   NOT NULL,
    after_lsn       BIGINT NOT NULL,
    through_lsn     BIGINT NOT NULL,
    first_day       TEXT,
    last_day        TEXT,
    mapping_version TEXT   NOT NULL,
    -- the backfill or the erasure that it is of; NULL for live loads
    backfill_id     TEXT,
    erasure         TEXT,
    -- 'planned', 'staged', 'submitted', 'committed'
    state           TEXT   NOT NULL,
    attempt         BIGINT NOT NULL,
    job_id          TEXT,
    rows_staged     BIGINT,
    bytes_staged    BIGINT,
    rows_loaded     BIGINT,
    planned_at      BIGINT NOT NULL,
    staged_at       BIGINT,
    submitted_at    BIGINT,
    committed_at    BIGINT,
    PRIMARY KEY (connector, batch_id)
);

CREATE INDEX export_batches_open ON export_batches (connector, number) WHERE state <> 'committed';

CREATE TABLE export_connectors (
    connector    TEXT   NOT NULL PRIMARY KEY,
    paused_at    BIGINT,
    paused_by    TEXT,
    last_run_at  BIGINT,
    -- what is in the way now, since when, and when it is tried again; NULL while all is well
    error_kind   TEXT,
    error        TEXT,
    error_since  BIGINT,
    failures     BIGINT NOT NULL DEFAULT 0,
    retry_at     BIGINT
);

CREATE TABLE export_backfills (
    backfill_id  TEXT   NOT NULL PRIMARY KEY,
    connector    TEXT   NOT NULL,
    first_day    TEXT   NOT NULL,
    last_day     TEXT   NOT NULL,
    -- 1 when rows take the place of those that are there
    replaces     BIGINT NOT NULL,
    -- the day that is planned next; after last_day when all are
    next_day     TEXT   NOT NULL,
    asked_at     BIGINT NOT NULL,
    asked_by     TEXT   NOT NULL,
    ended_at     BIGINT,
    -- 'done' or 'cancelled'
    outcome      TEXT
);

-- Credentials of connectors, sealed for the tenant `platform`.
CREATE TABLE secrets (
    name       TEXT   NOT NULL PRIMARY KEY,
    sealed     BLOB   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT   NOT NULL
);
