-- dmarc_readiness
-- What: whether a domain's DMARC policy may move one step, none → quarantine → reject, with the evidence, and whom the step
--   would hurt.
-- Grain: as_of × tenant × domain that the policy was found at.
-- Consumer: whoever owns the domain; nothing is changed by itself.
-- Cost: one scan of dmarc_records.
-- Notes: required_days of reports are asked for, 28 unless changed here, and never less than 14, whatever is written here.
--   The reports must also have come over as many days: anybody can write a month of them in a minute, in anybody's name.
--   Mail that is not aligned is told apart: own_host (the same source also sends aligned mail of this domain: something is
--   set up by half), third_party (authenticated as somebody else: mostly a service that sends for the domain), forwarded (the
--   receiver says so), unauthenticated (nothing passes: mostly forged, which a policy is for). The first two would be hurt. A
--   domain is ready when they are at most hurt_share_max of its mail, when there is enough mail to tell, and when reports
--   have not stopped. A policy at pct below 100 or in testing has its own step first: the same policy in full.
WITH parameters AS (
    SELECT
        28 AS required_days,
        14 AS least_days,
        42 AS window_days,
        4 AS silent_days_max,
        100 AS messages_min,
        0.002 AS hurt_share_max
),

bounds AS (
    SELECT
        window_days,
        silent_days_max,
        messages_min,
        hurt_share_max,
        CASE WHEN required_days < least_days THEN least_days ELSE required_days END AS required_days
    FROM parameters
),

seen AS (
    SELECT
        clock.as_of,
        tenant_id,
        policy_domain AS domain,
        report_date,
        source_ip,
        messages,
        begin_at,
        end_at,
        date_part('epoch', recorded_at) AS arrived_s,
        org_name,
        p,
        pct,
        testing,
        dkim_aligned OR spf_aligned AS aligned,
        dkim_result = 'pass' OR spf_result = 'pass' AS authenticated,
        override_reasons LIKE '%"forwarded"%' OR override_reasons LIKE '%"trusted_forwarder"%'
            OR override_reasons LIKE '%"mailing_list"%' AS forwarded
    FROM as_of AS clock
    CROSS JOIN bounds
    CROSS JOIN dmarc_records
    WHERE report_type = 'aggregate'
        AND recorded_at <= clock.as_of
        AND date_part('epoch', begin_at) >= date_part('epoch', clock.as_of) - window_days * 86400
        AND date_part('epoch', begin_at) <= date_part('epoch', clock.as_of)
),

policies AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        p,
        pct,
        testing,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, domain ORDER BY begin_at DESC, org_name, p, pct, testing
        ) AS place
    FROM seen
),

sources AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        source_ip,
        SUM(messages) AS messages,
        SUM(CASE WHEN aligned THEN messages ELSE 0 END) AS aligned,
        SUM(CASE WHEN NOT aligned AND forwarded THEN messages ELSE 0 END) AS forwarded,
        SUM(CASE WHEN NOT aligned AND COALESCE(forwarded, FALSE) = FALSE AND authenticated THEN messages ELSE 0 END)
            AS third_party,
        SUM(CASE
            WHEN NOT aligned AND COALESCE(forwarded, FALSE) = FALSE AND COALESCE(authenticated, FALSE) = FALSE
                THEN messages
            ELSE 0
        END) AS unauthenticated
    FROM seen
    GROUP BY as_of, tenant_id, domain, source_ip
),

judged AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        source_ip,
        messages,
        aligned,
        forwarded,
        CASE WHEN aligned > 0 THEN third_party + unauthenticated ELSE 0 END AS own_host,
        CASE WHEN aligned > 0 THEN 0 ELSE third_party END AS third_party,
        CASE WHEN aligned > 0 THEN 0 ELSE unauthenticated END AS unauthenticated,
        CASE WHEN aligned > 0 THEN third_party + unauthenticated ELSE third_party END AS hurt
    FROM sources
),

worst AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        source_ip,
        ROW_NUMBER() OVER (PARTITION BY as_of, tenant_id, domain ORDER BY hurt DESC, source_ip) AS place
    FROM judged
    WHERE hurt > 0
),

mail AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        SUM(messages) AS messages,
        SUM(aligned) AS aligned_messages,
        SUM(own_host) AS own_host_messages,
        SUM(third_party) AS third_party_messages,
        SUM(forwarded) AS forwarded_messages,
        SUM(unauthenticated) AS unauthenticated_messages,
        SUM(hurt) AS hurt_messages,
        SUM(CASE WHEN hurt > 0 THEN 1 ELSE 0 END) AS hurt_sources
    FROM judged
    GROUP BY as_of, tenant_id, domain
),

reports AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        COUNT(DISTINCT report_date) AS days_of_reports,
        CAST(round((MAX(arrived_s) - MIN(arrived_s)) / 86400.0) AS BIGINT) + 1 AS days_of_arrival,
        COUNT(DISTINCT org_name) AS reporters,
        MIN(begin_at) AS first_at,
        MAX(end_at) AS last_at
    FROM seen
    GROUP BY as_of, tenant_id, domain
),

evidence AS (
    SELECT
        mail.as_of,
        mail.tenant_id,
        mail.domain,
        policies.p AS policy,
        policies.pct,
        policies.testing,
        CASE
            WHEN COALESCE(policies.pct, 100) < 100 OR policies.testing = 'y' THEN policies.p
            WHEN policies.p = 'none' THEN 'quarantine'
            WHEN policies.p = 'quarantine' THEN 'reject'
        END AS next_policy,
        reports.days_of_reports,
        bounds.required_days,
        reports.reporters,
        mail.messages,
        mail.aligned_messages,
        CASE WHEN mail.messages > 0 THEN CAST(mail.aligned_messages AS DOUBLE) / mail.messages END AS aligned_share,
        mail.hurt_messages,
        CASE WHEN mail.messages > 0 THEN CAST(mail.hurt_messages AS DOUBLE) / mail.messages END AS hurt_share,
        mail.hurt_sources,
        worst.source_ip AS hurt_most,
        mail.own_host_messages,
        mail.third_party_messages,
        mail.forwarded_messages,
        mail.unauthenticated_messages,
        reports.first_at,
        reports.last_at,
        CASE
            WHEN policies.p = 'reject' AND COALESCE(policies.pct, 100) = 100 AND COALESCE(policies.testing, 'n') <> 'y'
                THEN 'the policy is reject already'
            WHEN reports.days_of_reports < bounds.required_days
                THEN 'reports of ' || CAST(reports.days_of_reports AS VARCHAR) || ' days, '
                    || CAST(bounds.required_days AS VARCHAR) || ' are needed'
            WHEN reports.days_of_arrival < bounds.required_days
                THEN 'all reports came within ' || CAST(reports.days_of_arrival AS VARCHAR) || ' days, '
                    || CAST(bounds.required_days AS VARCHAR) || ' are needed'
            WHEN date_part('epoch', reports.last_at)
                < date_part('epoch', mail.as_of) - bounds.silent_days_max * 86400
                THEN 'no report of the last ' || CAST(bounds.silent_days_max AS VARCHAR) || ' days'
            WHEN mail.messages < bounds.messages_min
                THEN CAST(mail.messages AS VARCHAR) || ' messages, ' || CAST(bounds.messages_min AS VARCHAR)
                    || ' are needed to tell'
            WHEN mail.hurt_messages > bounds.hurt_share_max * mail.messages
                THEN CAST(mail.hurt_messages AS VARCHAR) || ' of ' || CAST(mail.messages AS VARCHAR)
                    || ' messages would be hurt, from ' || CAST(mail.hurt_sources AS VARCHAR) || ' sources, most from '
                    || worst.source_ip
        END AS obstacle
    FROM mail
    CROSS JOIN bounds
    INNER JOIN reports
        ON reports.as_of = mail.as_of AND reports.tenant_id = mail.tenant_id AND reports.domain = mail.domain
    INNER JOIN policies
        ON policies.as_of = mail.as_of AND policies.tenant_id = mail.tenant_id AND policies.domain = mail.domain
            AND policies.place = 1
    LEFT JOIN worst
        ON worst.as_of = mail.as_of AND worst.tenant_id = mail.tenant_id AND worst.domain = mail.domain
            AND worst.place = 1
)

SELECT
    as_of,
    tenant_id,
    domain,
    policy,
    next_policy,
    obstacle IS NULL AND next_policy IS NOT NULL AS ready,
    CASE
        WHEN obstacle IS NOT NULL THEN obstacle
        WHEN next_policy IS NULL THEN 'the reports do not say which policy is published'
        ELSE 'reports of ' || CAST(days_of_reports AS VARCHAR) || ' days, ' || CAST(hurt_messages AS VARCHAR) || ' of '
            || CAST(messages AS VARCHAR) || ' messages would be hurt'
    END AS reason,
    days_of_reports,
    required_days,
    reporters,
    messages,
    aligned_messages,
    aligned_share,
    hurt_messages,
    hurt_share,
    hurt_sources,
    hurt_most,
    own_host_messages,
    third_party_messages,
    forwarded_messages,
    unauthenticated_messages,
    pct,
    testing,
    first_at,
    last_at
FROM evidence
