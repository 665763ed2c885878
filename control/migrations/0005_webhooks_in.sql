-- Where other senders may push their events to: one row for each sender of a tenant.
--
-- What it takes to believe a push (signing keys, passwords) lies sealed for the tenant; the secret part of the address
-- is kept as a hash alone.

CREATE TABLE webhooks_in (
    webhook_id   TEXT   NOT NULL PRIMARY KEY,
    tenant_id    TEXT   NOT NULL REFERENCES tenants (tenant_id),
    -- 'ses', 'sendgrid', 'mailgun', 'postmark', 'sparkpost'
    source       TEXT   NOT NULL,
    -- SHA-256 of the secret
    secret_hash  BLOB   NOT NULL,
    sealed_settings BLOB NOT NULL,
    created_at   BIGINT NOT NULL,
    created_by   TEXT   NOT NULL,
    revoked_at   BIGINT
);
