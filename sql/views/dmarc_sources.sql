-- dmarc_sources
-- What: which hosts send in a domain's name, and how much of their mail DMARC lets pass, as receivers report it.
-- Grain: as_of × tenant × domain in From × source address, over the last 28 days (window_days).
-- Consumer: whoever sets up DMARC: a source that one knows and that is not aligned needs SPF or DKIM.
-- Cost: one scan of dmarc_records.
-- Notes: counts are the reporters' own, and only of receivers that send reports. other_domain names whom an unaligned
--   source authenticates as instead; null where it passes nothing. No name or place of a source is looked up.
WITH parameters AS (
    SELECT 28 AS window_days
),

seen AS (
    SELECT
        clock.as_of,
        tenant_id,
        header_from AS domain,
        source_ip,
        messages,
        begin_at,
        end_at,
        org_name,
        CASE WHEN dkim_aligned THEN messages ELSE 0 END AS by_dkim,
        CASE WHEN spf_aligned THEN messages ELSE 0 END AS by_spf,
        CASE WHEN dkim_aligned OR spf_aligned THEN messages ELSE 0 END AS aligned,
        CASE WHEN disposition = 'quarantine' THEN messages ELSE 0 END AS quarantined,
        CASE WHEN disposition = 'reject' THEN messages ELSE 0 END AS rejected,
        CASE
            WHEN dkim_aligned OR spf_aligned THEN NULL
            WHEN dkim_result = 'pass' THEN dkim_domain
            WHEN spf_result = 'pass' THEN spf_domain
        END AS other_domain
    FROM as_of AS clock
    CROSS JOIN parameters
    CROSS JOIN dmarc_records
    WHERE report_type = 'aggregate'
        AND recorded_at <= clock.as_of
        AND date_part('epoch', begin_at) >= date_part('epoch', clock.as_of) - window_days * 86400
)

SELECT
    as_of,
    tenant_id,
    domain,
    source_ip,
    SUM(messages) AS messages,
    SUM(aligned) AS aligned_messages,
    CASE WHEN SUM(messages) > 0 THEN CAST(SUM(aligned) AS DOUBLE) / SUM(messages) END AS aligned_share,
    SUM(by_dkim) AS dkim_aligned_messages,
    SUM(by_spf) AS spf_aligned_messages,
    SUM(quarantined) AS quarantined_messages,
    SUM(rejected) AS rejected_messages,
    MAX(other_domain) AS other_domain,
    COUNT(DISTINCT org_name) AS reporters,
    MIN(begin_at) AS first_at,
    MAX(end_at) AS last_at
FROM seen
GROUP BY as_of, tenant_id, domain, source_ip
