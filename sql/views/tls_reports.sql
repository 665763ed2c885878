-- tls_reports
-- What: how TLS to a domain's MX hosts fares, as other servers report it (RFC 8460): sessions that worked, those that
--   did not, and what failed most.
-- Grain: as_of × tenant × domain × who reports × policy that it went by, over the last 28 days (window_days).
-- Consumer: whoever runs the MX: failures under a policy in force are mail that did not come.
-- Cost: one scan of tls_report_records.
-- Notes: sums come from the reports' summaries. The kinds need not add up to failed_sessions: reporters cut lists short.
WITH parameters AS (
    SELECT 28 AS window_days
),

seen AS (
    SELECT
        clock.as_of,
        tenant_id,
        policy_domain AS domain,
        org_name AS reporter,
        policy_type,
        report_type,
        report_key,
        begin_at,
        end_at,
        COALESCE(total_successful_sessions, 0) AS successful,
        COALESCE(total_failed_sessions, 0) AS failed,
        result_type,
        receiving_mx_hostname,
        COALESCE(failed_sessions, 0) AS failed_alike
    FROM as_of AS clock
    CROSS JOIN parameters
    CROSS JOIN tls_report_records
    WHERE recorded_at <= clock.as_of
        AND date_part('epoch', begin_at) >= date_part('epoch', clock.as_of) - window_days * 86400
),

kinds AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        reporter,
        policy_type,
        result_type,
        MAX(receiving_mx_hostname) AS receiver,
        SUM(failed_alike) AS sessions
    FROM seen
    WHERE report_type = 'failure'
    GROUP BY as_of, tenant_id, domain, reporter, policy_type, result_type
),

ranked AS (
    SELECT
        kinds.*,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, domain, reporter, policy_type ORDER BY sessions DESC, result_type
        ) AS place
    FROM kinds
),

sums AS (
    SELECT
        as_of,
        tenant_id,
        domain,
        reporter,
        policy_type,
        COUNT(DISTINCT report_key) AS reports,
        SUM(successful) AS successful_sessions,
        SUM(failed) AS failed_sessions,
        COUNT(DISTINCT CASE WHEN report_type = 'failure' THEN result_type END) AS failure_kinds,
        COUNT(DISTINCT CASE WHEN report_type = 'failure' THEN receiving_mx_hostname END) AS failing_receivers,
        MIN(begin_at) AS first_at,
        MAX(end_at) AS last_at
    FROM seen
    GROUP BY as_of, tenant_id, domain, reporter, policy_type
)

SELECT
    sums.as_of,
    sums.tenant_id,
    sums.domain,
    sums.reporter,
    sums.policy_type,
    sums.reports,
    sums.successful_sessions,
    sums.failed_sessions,
    CASE
        WHEN sums.successful_sessions + sums.failed_sessions > 0
            THEN CAST(sums.failed_sessions AS DOUBLE) / (sums.successful_sessions + sums.failed_sessions)
    END AS failed_share,
    sums.failure_kinds,
    ranked.result_type AS most_frequent_failure,
    ranked.receiver AS failing_receiver,
    sums.failing_receivers,
    sums.first_at,
    sums.last_at
FROM sums
LEFT JOIN ranked
    ON ranked.as_of = sums.as_of AND ranked.tenant_id = sums.tenant_id AND ranked.domain = sums.domain
        AND ranked.reporter = sums.reporter AND ranked.policy_type = sums.policy_type AND ranked.place = 1
