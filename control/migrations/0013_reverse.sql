-- Reverse ETL: which rows of a connector's query the destination has, and as what.

CREATE TABLE reverse_rows (
    -- as in export_batches
    connector    TEXT   NOT NULL,
    -- of the record's key, under a key of the installation: it tells nobody whose row it is
    key_hash     TEXT   NOT NULL,
    -- of what the destination took last, and when; NULL while it took nothing
    row_hash     TEXT,
    sent_at      BIGINT,
    -- of what it refused, and what it said; NULL when the last row sent was taken
    refused_hash TEXT,
    error        TEXT,
    refused_at   BIGINT,
    retry_at     BIGINT,
    PRIMARY KEY (connector, key_hash)
);
