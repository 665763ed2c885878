-- dmarc_alignment
-- What: how much of the mail in a domain's name DMARC lets pass, day by day, as receivers report it.
-- Grain: as_of × tenant × domain in From × UTC day on which the reports begin.
-- Consumer: charts; whoever watches what a change of SPF, DKIM or policy does.
-- Cost: one scan of dmarc_records. Filter by day to read less.
-- Notes: reports come a day or two later, so the last days grow.
--   policy is the strictest word by the alphabet that reporters found that day: reject before quarantine before none.
WITH seen AS (
    SELECT
        clock.as_of,
        tenant_id,
        header_from AS domain,
        report_date AS day,
        source_ip,
        messages,
        org_name,
        p,
        CASE WHEN dkim_aligned THEN messages ELSE 0 END AS by_dkim,
        CASE WHEN spf_aligned THEN messages ELSE 0 END AS by_spf,
        CASE WHEN dkim_aligned OR spf_aligned THEN messages ELSE 0 END AS aligned,
        CASE WHEN disposition = 'quarantine' THEN messages ELSE 0 END AS quarantined,
        CASE WHEN disposition = 'reject' THEN messages ELSE 0 END AS rejected
    FROM as_of AS clock
    CROSS JOIN dmarc_records
    WHERE report_type = 'aggregate' AND recorded_at <= clock.as_of
)

SELECT
    as_of,
    tenant_id,
    domain,
    day,
    MAX(p) AS policy,
    SUM(messages) AS messages,
    SUM(aligned) AS aligned_messages,
    CASE WHEN SUM(messages) > 0 THEN CAST(SUM(aligned) AS DOUBLE) / SUM(messages) END AS aligned_share,
    SUM(by_dkim) AS dkim_aligned_messages,
    SUM(by_spf) AS spf_aligned_messages,
    SUM(quarantined) AS quarantined_messages,
    SUM(rejected) AS rejected_messages,
    COUNT(DISTINCT source_ip) AS sources,
    COUNT(DISTINCT org_name) AS reporters
FROM seen
GROUP BY as_of, tenant_id, domain, day
