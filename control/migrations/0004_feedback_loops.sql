-- Where this installation is enrolled for complaints: a sending domain or one of its addresses, at one provider.

CREATE TABLE feedback_loops (
    tenant_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    identity_kind TEXT NOT NULL CHECK (identity_kind IN ('domain', 'ip')),
    identity TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (provider, identity_kind, identity)
);
