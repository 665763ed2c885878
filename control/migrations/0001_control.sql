-- Tenants and their data keys, API keys, sending domains, audit.
--
-- Kept to what SQLite and PostgreSQL share: text ids, instants as BIGINT microseconds since the epoch (UTC).
-- For PostgreSQL read BLOB as BYTEA, and write the three triggers at the end in PL/pgSQL.

CREATE TABLE tenants (
    tenant_id    TEXT   NOT NULL PRIMARY KEY,
    display_name TEXT   NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('active', 'suspended')),
    created_at   BIGINT NOT NULL
);

-- A tenant's newest key seals; all of them open. Numbers are unique over all tenants, and never used again.
CREATE TABLE data_keys (
    key_id      BIGINT NOT NULL PRIMARY KEY CHECK (key_id BETWEEN 1 AND 4294967295),
    tenant_id   TEXT   NOT NULL REFERENCES tenants (tenant_id),
    -- 256 bits, sealed under the master key and bound to tenant and number
    wrapped_key BLOB   NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE INDEX data_keys_by_tenant ON data_keys (tenant_id, key_id);

-- Secrets of the installation as a whole; they belong to the tenant 'platform'.
CREATE TABLE installation_secrets (
    name           TEXT   NOT NULL PRIMARY KEY,
    tenant_id      TEXT   NOT NULL REFERENCES tenants (tenant_id),
    wrapped_secret BLOB   NOT NULL,
    created_at     BIGINT NOT NULL
);

CREATE TABLE api_keys (
    key_id            TEXT    NOT NULL PRIMARY KEY,
    -- 'platform' for a key of the whole installation
    tenant_id         TEXT    NOT NULL REFERENCES tenants (tenant_id),
    installation_wide BOOLEAN NOT NULL,
    -- words with a space between: 'send read'
    scopes            TEXT    NOT NULL,
    label             TEXT    NOT NULL,
    -- SHA-256 of the secret part; the secret itself is kept nowhere
    secret_hash       BLOB    NOT NULL,
    created_at        BIGINT  NOT NULL,
    created_by        TEXT    NOT NULL,
    revoked_at        BIGINT
);

CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);

CREATE TABLE domains (
    -- in its ASCII form (IDNA A-labels), lower case
    domain           TEXT   NOT NULL PRIMARY KEY,
    tenant_id        TEXT   NOT NULL REFERENCES tenants (tenant_id),
    selector         TEXT   NOT NULL,
    bounce_domain    TEXT   NOT NULL,
    -- SubjectPublicKeyInfo in DER, base64
    dkim_public_key  TEXT   NOT NULL,
    -- PKCS#8 in DER, sealed under the tenant's data key
    dkim_private_key BLOB   NOT NULL,
    created_at       BIGINT NOT NULL
);

CREATE INDEX domains_by_tenant ON domains (tenant_id, domain);

-- No foreign key: the record outlives what it speaks of.
CREATE TABLE audit_log (
    -- 1, 2, 3 … without gaps. INTEGER makes it SQLite's rowid, so that no second, hidden key can be written
    -- over; BIGINT in PostgreSQL, where writers also need an advisory lock to stay free of gaps.
    seq       INTEGER NOT NULL PRIMARY KEY,
    at        BIGINT  NOT NULL,
    actor     TEXT    NOT NULL,
    tenant_id TEXT    NOT NULL,
    action    TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    -- JSON, never a secret
    detail    TEXT    NOT NULL
);

CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, seq);

CREATE TRIGGER audit_log_refuses_update BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is append-only: a row is never changed');
END;

CREATE TRIGGER audit_log_refuses_delete BEFORE DELETE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is append-only: a row is never deleted');
END;

-- INSERT OR REPLACE would delete without asking the trigger above.
CREATE TRIGGER audit_log_refuses_replace BEFORE INSERT ON audit_log
WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'audit_log is append-only: a row is never replaced');
END;
