-- alerts
-- What: what somebody should look at, each with its evidence in numbers and what to do next.
-- Grain: as_of × kind × tenant × subject.
-- Consumer: the server, which logs what is raised and cleared; `sendlake alerts ls`; whoever is on call.
-- Cost: the views fbl_coverage and bounce_bursts; one scan each of dmarc_records and tls_report_records; of events those of
--   eight rare types, of 30 days.
-- Notes: alert_id is the same for the same kind, tenant and subject at any instant. value is what was measured, threshold
--   what it is held to. Reports come a day late: those that begin in the last seven days count.
--   dmarc_own_source_fails: a source whose mail SPF vouches for, or that mail left from in 28 days, with 50 messages or more
--   and at least 5 % that pass neither SPF nor DKIM for the domain; half makes it critical.
--   dmarc_unknown_sources: sources of which nothing passes, together 1,000 messages and a tenth of the domain's.
--   dmarc_failure_reports: 20 in a day, and three times the daily mean of the week before.
--   tls_failures: 10 sessions and 1 %; a tenth makes it critical. reports_quarantined: 20 in a day.
--   webhook_disabled: endpoints whose last event of these two, within 30 days, is webhook_disabled.
--   suppressions_in_doubt: what a burst took off the list within 30 days and nobody decided. suppressions_missing: mail that was
--   held in the last hour since the list lacks entries. export_failing: what a connector's server said last, and it has not
--   said since that loads get through; a day makes it critical.
WITH clock AS (
    SELECT as_of, date_part('epoch', as_of) AS as_of_s FROM as_of
),

own_addresses AS (
    SELECT DISTINCT clock.as_of AS own_as_of, tenant_id AS own_tenant, source_ip AS own_ip
    FROM clock
    CROSS JOIN events
    WHERE event_type = 'delivered'
        AND source_ip IS NOT NULL
        AND recorded_at <= clock.as_of
        AND date_part('epoch', recorded_at) > clock.as_of_s - 28 * 86400
),

dmarc_seen AS (
    SELECT
        clock.as_of,
        tenant_id,
        COALESCE(header_from, policy_domain, '(unknown)') AS domain,
        source_ip,
        SUM(messages) AS messages,
        SUM(CASE WHEN dkim_aligned OR spf_aligned THEN messages ELSE 0 END) AS aligned,
        SUM(CASE WHEN spf_aligned THEN messages ELSE 0 END) AS by_spf,
        MIN(begin_at) AS first_at,
        MAX(end_at) AS last_at
    FROM clock
    CROSS JOIN dmarc_records
    WHERE report_type = 'aggregate'
        AND source_ip IS NOT NULL
        AND recorded_at <= clock.as_of
        AND date_part('epoch', begin_at) >= clock.as_of_s - 7 * 86400
    GROUP BY clock.as_of, tenant_id, COALESCE(header_from, policy_domain, '(unknown)'), source_ip
),

dmarc_known AS (
    SELECT
        dmarc_seen.*,
        CASE WHEN by_spf > 0 OR own_ip IS NOT NULL THEN 1 ELSE 0 END AS is_own,
        SUM(messages) OVER (PARTITION BY as_of, tenant_id, domain) AS of_domain
    FROM dmarc_seen
    LEFT JOIN own_addresses
        ON own_as_of = dmarc_seen.as_of AND own_tenant = dmarc_seen.tenant_id AND own_ip = dmarc_seen.source_ip
),

own_sources AS (
    SELECT
        as_of,
        'dmarc_own_source_fails' AS kind,
        tenant_id,
        domain || ' from ' || source_ip AS subject,
        CASE WHEN 2 * aligned <= messages THEN 'critical' ELSE 'warning' END AS severity,
        first_at AS since,
        last_at AS last_seen,
        CAST(messages - aligned AS DOUBLE) / messages AS value,
        CAST(0.05 AS DOUBLE) AS threshold,
        'of ' || CAST(CAST(messages AS BIGINT) AS STRING) || ' messages from ' || source_ip || ' in the name of ' || domain
        || ' receivers saw ' || CAST(CAST(messages - aligned AS BIGINT) AS STRING) || ' fail DMARC' AS reason,
        'sign what leaves there with DKIM of the domain, and name the address in its SPF record. dmarc_sources has the counts'
            AS advice
    FROM dmarc_known
    WHERE is_own = 1 AND messages >= 50 AND 20 * (messages - aligned) >= messages
),

unknown_ranked AS (
    SELECT
        dmarc_known.*,
        ROW_NUMBER() OVER (PARTITION BY as_of, tenant_id, domain ORDER BY messages DESC, source_ip) AS place
    FROM dmarc_known
    WHERE is_own = 0 AND aligned = 0
),

unknown_sources AS (
    SELECT
        as_of,
        'dmarc_unknown_sources' AS kind,
        tenant_id,
        domain AS subject,
        'warning' AS severity,
        MIN(first_at) AS since,
        MAX(last_at) AS last_seen,
        CAST(SUM(messages) AS DOUBLE) AS value,
        CAST(1000 AS DOUBLE) AS threshold,
        CAST(COUNT(*) AS STRING) || ' sources that nobody vouches for sent ' || CAST(CAST(SUM(messages) AS BIGINT) AS STRING)
        || ' of ' || CAST(CAST(MAX(of_domain) AS BIGINT) AS STRING) || ' messages in the name of ' || domain || ', most of them '
        || MAX(CASE WHEN place = 1 THEN source_ip END) AS reason,
        'if none is yours, somebody uses the name: dmarc_readiness says when p=reject can stop it' AS advice
    FROM unknown_ranked
    GROUP BY as_of, tenant_id, domain
    HAVING SUM(messages) >= 1000 AND 10 * SUM(messages) >= MAX(of_domain)
),

failure_counts AS (
    SELECT
        clock.as_of,
        tenant_id,
        COALESCE(header_from, policy_domain, '(unknown)') AS domain,
        SUM(CASE WHEN date_part('epoch', recorded_at) > clock.as_of_s - 86400 THEN 1 ELSE 0 END) AS today,
        SUM(CASE WHEN date_part('epoch', recorded_at) > clock.as_of_s - 86400 THEN 0 ELSE 1 END) AS week_before,
        MIN(CASE WHEN date_part('epoch', recorded_at) > clock.as_of_s - 86400 THEN recorded_at END) AS first_at,
        MAX(recorded_at) AS last_at
    FROM clock
    CROSS JOIN dmarc_records
    WHERE report_type <> 'aggregate'
        AND recorded_at <= clock.as_of
        AND date_part('epoch', recorded_at) > clock.as_of_s - 8 * 86400
    GROUP BY clock.as_of, tenant_id, COALESCE(header_from, policy_domain, '(unknown)')
),

failure_reports AS (
    SELECT
        as_of,
        'dmarc_failure_reports' AS kind,
        tenant_id,
        domain AS subject,
        'warning' AS severity,
        first_at AS since,
        last_at AS last_seen,
        CAST(today AS DOUBLE) AS value,
        CAST(GREATEST(20, 3.0 * week_before / 7) AS DOUBLE) AS threshold,
        CAST(CAST(today AS BIGINT) AS STRING) || ' failure reports about ' || domain || ' in a day, and '
        || CAST(CAST(week_before AS BIGINT) AS STRING) || ' in the week before' AS reason,
        'dmarc_records has them, with report_type failure: look at source_ip and at what failed' AS advice
    FROM failure_counts
    WHERE today >= 20 AND 7 * today >= 3 * week_before
),

tls_counts AS (
    SELECT
        clock.as_of,
        tenant_id,
        COALESCE(policy_domain, '(unknown)') AS domain,
        SUM(COALESCE(total_successful_sessions, 0)) AS successful,
        SUM(COALESCE(total_failed_sessions, 0)) AS failed,
        MAX(result_type) AS result_type,
        MIN(begin_at) AS first_at,
        MAX(end_at) AS last_at
    FROM clock
    CROSS JOIN tls_report_records
    WHERE recorded_at <= clock.as_of
        AND date_part('epoch', begin_at) >= clock.as_of_s - 7 * 86400
    GROUP BY clock.as_of, tenant_id, COALESCE(policy_domain, '(unknown)')
),

tls_failures AS (
    SELECT
        as_of,
        'tls_failures' AS kind,
        tenant_id,
        domain AS subject,
        CASE WHEN 10 * failed >= successful + failed THEN 'critical' ELSE 'warning' END AS severity,
        first_at AS since,
        last_at AS last_seen,
        CAST(failed AS DOUBLE) / (successful + failed) AS value,
        CAST(0.01 AS DOUBLE) AS threshold,
        CAST(CAST(failed AS BIGINT) AS STRING) || ' of ' || CAST(CAST(successful + failed AS BIGINT) AS STRING)
        || ' TLS sessions to the MX of ' || domain || ' failed' || COALESCE(', ' || result_type || ' among them', '') AS reason,
        'under MTA-STS or DANE this is mail that does not come: tls_reports says which MX, and why' AS advice
    FROM tls_counts
    WHERE failed >= 10 AND 100 * failed >= successful + failed
),

silent_loops AS (
    SELECT
        as_of,
        'feedback_loop_silent' AS kind,
        tenant_id,
        sending_domain || ' at ' || provider AS subject,
        'warning' AS severity,
        enrolled_since AS since,
        as_of AS last_seen,
        CAST(deliveries AS DOUBLE) AS value,
        CAST(10000 AS DOUBLE) AS threshold,
        'no complaint in 90 days about ' || sending_domain || ', which is enrolled at ' || provider || ', and '
        || CAST(deliveries AS STRING) || ' deliveries in 28' AS reason,
        'send a test complaint: see that the enrolment stands, and that its address is one that is read here' AS advice
    FROM fbl_coverage
    WHERE is_silent
),

rare AS (
    SELECT
        clock.as_of,
        clock.as_of_s,
        event_type,
        tenant_id,
        recipient,
        policy_id,
        reported_by,
        reply_text,
        url,
        detail,
        recorded_at,
        date_part('epoch', recorded_at) AS recorded_s,
        event_id
    FROM clock
    CROSS JOIN events
    WHERE (event_type IN (
                'report_quarantined', 'suppression_added', 'suppression_removed', 'export_failing', 'export_recovered',
                'webhook_disabled', 'webhook_enabled'
            )
            OR (event_type = 'held' AND policy_id = 'suppressions_incomplete'))
        AND recorded_at <= clock.as_of
        AND date_part('epoch', recorded_at) > clock.as_of_s - 30 * 86400
),

quarantined AS (
    SELECT
        as_of,
        'reports_quarantined' AS kind,
        tenant_id,
        'quarantine' AS subject,
        'warning' AS severity,
        MIN(recorded_at) AS since,
        MAX(recorded_at) AS last_seen,
        CAST(COUNT(*) AS DOUBLE) AS value,
        CAST(20 AS DOUBLE) AS threshold,
        CAST(COUNT(*) AS STRING) || ' reports that cannot be read, or must not count, in a day' AS reason,
        'the events report_quarantined say why, and the files lie in quarantine/ of the data folder' AS advice
    FROM rare
    WHERE event_type = 'report_quarantined' AND recorded_s > as_of_s - 86400
    GROUP BY as_of, tenant_id
    HAVING COUNT(*) >= 20
),

bounce_changes AS (
    SELECT
        rare.*,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, recipient ORDER BY recorded_at DESC, event_id DESC
        ) AS place
    FROM rare
    WHERE event_type IN ('suppression_added', 'suppression_removed')
        AND recipient IS NOT NULL
        AND detail LIKE '%"reason":"hard_bounce"%'
),

doubts AS (
    SELECT
        as_of,
        'suppressions_in_doubt' AS kind,
        tenant_id,
        'bursts' AS subject,
        'warning' AS severity,
        MIN(recorded_at) AS since,
        MAX(recorded_at) AS last_seen,
        CAST(COUNT(*) AS DOUBLE) AS value,
        CAST(1 AS DOUBLE) AS threshold,
        CAST(COUNT(*) AS STRING) || ' addresses that bounced in a burst are written to until somebody decides' AS reason,
        '`sendlake review bursts` lists what waits, `review confirm` or `review release` decides' AS advice
    FROM bounce_changes
    WHERE place = 1 AND event_type = 'suppression_removed' AND detail LIKE '%"by":"burst"%'
    GROUP BY as_of, tenant_id
),

bursts AS (
    SELECT
        as_of,
        'bounce_burst' AS kind,
        'platform' AS tenant_id,
        provider AS subject,
        'critical' AS severity,
        as_of - INTERVAL '1' HOUR AS since,
        as_of AS last_seen,
        CAST(unknown_users AS DOUBLE) AS value,
        CAST(20 AS DOUBLE) AS threshold,
        provider || ' called ' || CAST(unknown_users AS STRING) || ' recipients unknown within the hour, far more than it usually does'
            AS reason,
        'ask whether the provider has an outage, `sendlake review bursts` lists what it put in doubt' AS advice
    FROM bounce_bursts
    WHERE is_burst
),

missing AS (
    SELECT
        as_of,
        'suppressions_missing' AS kind,
        tenant_id,
        'suppressions' AS subject,
        'critical' AS severity,
        MIN(recorded_at) AS since,
        MAX(recorded_at) AS last_seen,
        CAST(COUNT(*) AS DOUBLE) AS value,
        CAST(1 AS DOUBLE) AS threshold,
        CAST(COUNT(*) AS STRING) || ' marketing and cold messages were held in the last hour, as the list of suppressions lacks entries'
            AS reason,
        '`sendlake suppression status` says what is missing, `sendlake suppression rebuild` restores it' AS advice
    FROM rare
    WHERE event_type = 'held' AND recorded_s > as_of_s - 3600
    GROUP BY as_of, tenant_id
),

export_changes AS (
    SELECT
        rare.*,
        ROW_NUMBER() OVER (PARTITION BY as_of, reported_by ORDER BY recorded_at DESC, event_id DESC) AS place,
        MAX(CASE WHEN event_type = 'export_recovered' THEN recorded_at END) OVER (
            PARTITION BY as_of, reported_by
        ) AS well_at
    FROM rare
    WHERE event_type IN ('export_failing', 'export_recovered') AND reported_by IS NOT NULL
),

exports AS (
    SELECT
        as_of,
        'export_failing' AS kind,
        tenant_id,
        reported_by AS subject,
        CASE WHEN MIN(as_of_s - recorded_s) > 86400 THEN 'critical' ELSE 'warning' END AS severity,
        MIN(recorded_at) AS since,
        MAX(recorded_at) AS last_seen,
        CAST(COUNT(*) AS DOUBLE) AS value,
        CAST(1 AS DOUBLE) AS threshold,
        'events do not reach it: ' || MAX(CASE WHEN place = 1 THEN reply_text END) AS reason,
        '`sendlake export status` says what is in the way, `export retry` tries again at once, nothing is lost' AS advice
    FROM export_changes
    WHERE event_type = 'export_failing' AND (well_at IS NULL OR recorded_at > well_at)
    GROUP BY as_of, tenant_id, reported_by
),

webhook_changes AS (
    SELECT
        rare.*,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, url ORDER BY recorded_at DESC, event_id DESC
        ) AS place
    FROM rare
    WHERE event_type IN ('webhook_disabled', 'webhook_enabled') AND url IS NOT NULL
),

webhooks AS (
    SELECT
        as_of,
        'webhook_disabled' AS kind,
        tenant_id,
        REPLACE(url, '/v1/webhooks/', '') AS subject,
        'warning' AS severity,
        recorded_at AS since,
        recorded_at AS last_seen,
        CAST(1 AS DOUBLE) AS value,
        CAST(1 AS DOUBLE) AS threshold,
        'the webhook ' || REPLACE(url, '/v1/webhooks/', '') || ' was disabled, as it took nothing for days or said that it is gone' AS reason,
        '`sendlake webhook show` says why, once it is mended, `webhook resume` goes on where it stopped' AS advice
    FROM webhook_changes
    WHERE place = 1 AND event_type = 'webhook_disabled'
),

found AS (
    SELECT * FROM exports
    UNION ALL
    SELECT * FROM own_sources
    UNION ALL
    SELECT * FROM unknown_sources
    UNION ALL
    SELECT * FROM failure_reports
    UNION ALL
    SELECT * FROM tls_failures
    UNION ALL
    SELECT * FROM silent_loops
    UNION ALL
    SELECT * FROM quarantined
    UNION ALL
    SELECT * FROM doubts
    UNION ALL
    SELECT * FROM bursts
    UNION ALL
    SELECT * FROM missing
    UNION ALL
    SELECT * FROM webhooks
)

SELECT
    as_of,
    kind || '/' || tenant_id || '/' || subject AS alert_id,
    severity,
    kind,
    tenant_id,
    subject,
    since,
    last_seen,
    value,
    threshold,
    reason,
    advice,
    'alerts 1' AS view_version
FROM found
