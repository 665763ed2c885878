-- Opens and clicks: off for everybody who says nothing else.

CREATE TABLE tenant_tracking (
    tenant_id TEXT    NOT NULL PRIMARY KEY REFERENCES tenants (tenant_id),
    -- what a message gets that says nothing itself
    opens     BOOLEAN NOT NULL,
    clicks    BOOLEAN NOT NULL
);

-- Names under which a sending domain's tracked links are served.
CREATE TABLE tracking_domains (
    -- in its ASCII form, lower case; below the sending domain
    tracking_domain TEXT   NOT NULL PRIMARY KEY,
    domain          TEXT   NOT NULL UNIQUE REFERENCES domains (domain) ON DELETE CASCADE,
    tenant_id       TEXT   NOT NULL REFERENCES tenants (tenant_id),
    created_at      BIGINT NOT NULL,
    -- when the name was last seen to lead here; links use it from then on
    verified_at     BIGINT
);
