-- provider_calibration
-- What: what Google Postmaster Tools and Microsoft's SNDS say of our mail, beside our own estimate of the same day.
-- Grain: as_of × tenant × provider × identity (a domain at Google, an address at Microsoft) × day.
-- Consumer: whoever asks how far our complaint rates are off; nothing is limited by it.
-- Cost: one scan of provider_figures and one of events (delivered, complained, unsubscribed at these two providers).
-- Notes: of a figure that came several times, the one that was recorded last counts. Their rate is of mail in the inbox
--   (Google), ours of mail that was accepted: where mail goes to the spam folder theirs is the higher. our_rate is of
--   complaints where we hear of them (a report came, or the identity is enrolled in the loop), else of unsubscribes, which is a
--   proxy and no measure of the same thing: watch the ratio over time, not its height. SNDS often gives bounds only: then
--   their_spam_rate is NULL, and within_bounds compares. Days are UTC here, and the provider's there. Our domain is the
--   d= of the signature, else that in From. Figures of an address belong to the installation unless they were taken in for a
--   tenant; beside them stands all mail from it. Complaints that were taken back do not count. lag_days: from the end of
--   the span to the first that we knew of it.
WITH known AS (
    SELECT
        clock.as_of,
        provider_figures.tenant_id,
        provider_figures.provider,
        provider_figures.identity_kind,
        provider_figures.identity,
        provider_figures.report_date,
        provider_figures.metric,
        provider_figures.value,
        provider_figures.value_lower,
        provider_figures.value_upper,
        provider_figures.text,
        provider_figures.end_at,
        provider_figures.recorded_at,
        MAX(provider_figures.recorded_at) OVER (
            PARTITION BY
                clock.as_of,
                provider_figures.tenant_id,
                provider_figures.provider,
                provider_figures.identity_kind,
                provider_figures.identity,
                provider_figures.report_date,
                provider_figures.metric
        ) AS latest_at
    FROM (SELECT as_of FROM as_of) AS clock
    CROSS JOIN provider_figures
    WHERE provider_figures.recorded_at <= clock.as_of
),

told AS (
    SELECT
        as_of,
        tenant_id,
        provider,
        identity_kind,
        identity,
        report_date,
        MAX(CASE WHEN metric = 'spam_rate' AND recorded_at = latest_at THEN value END) AS their_spam_rate,
        MAX(CASE WHEN metric = 'spam_rate' AND recorded_at = latest_at THEN value_lower END) AS their_spam_rate_lower,
        MAX(CASE WHEN metric = 'spam_rate' AND recorded_at = latest_at THEN value_upper END) AS their_spam_rate_upper,
        MAX(CASE WHEN metric = 'reputation' AND recorded_at = latest_at THEN text END) AS reputation,
        MAX(CASE WHEN metric = 'spf_success' AND recorded_at = latest_at THEN value END) AS their_spf_share,
        MAX(CASE WHEN metric = 'dkim_success' AND recorded_at = latest_at THEN value END) AS their_dkim_share,
        MAX(CASE WHEN metric = 'dmarc_success' AND recorded_at = latest_at THEN value END) AS their_dmarc_share,
        MAX(CASE WHEN metric = 'recipients' AND recorded_at = latest_at THEN value END) AS their_recipients,
        MAX(CASE WHEN metric = 'trap_hits' AND recorded_at = latest_at THEN value END) AS trap_hits,
        MAX(CASE WHEN metric = 'blocked' AND recorded_at = latest_at THEN value END) AS blocked,
        MAX(recorded_at) AS recorded_at,
        MIN(date_part('epoch', recorded_at)) AS first_recorded_s,
        MIN(date_part('epoch', end_at)) AS end_s
    FROM known
    GROUP BY as_of, tenant_id, provider, identity_kind, identity, report_date
),

facts AS (
    SELECT
        tenant_id,
        provider,
        COALESCE(dkim_domain, header_from_domain) AS sending_domain,
        source_ip,
        CAST(CASE WHEN event_type = 'delivered' THEN occurred_at ELSE delivered_at END AS DATE) AS delivery_day,
        recorded_at AS known_at,
        CASE WHEN event_type = 'delivered' THEN 1 ELSE 0 END AS is_delivery,
        CASE WHEN event_type = 'complained' THEN 1 ELSE 0 END AS is_complaint,
        CASE WHEN event_type = 'complained' THEN 1 ELSE 0 END AS is_report,
        CASE WHEN event_type = 'unsubscribed' THEN 1 ELSE 0 END AS is_unsubscribe,
        CASE WHEN event_type = 'delivered' AND spf_aligned IS NOT NULL THEN 1 ELSE 0 END AS is_computed,
        CASE WHEN event_type = 'delivered' AND spf_aligned THEN 1 ELSE 0 END AS is_spf_aligned,
        CASE WHEN event_type = 'delivered' AND dkim_aligned THEN 1 ELSE 0 END AS is_dkim_aligned,
        CASE WHEN event_type = 'delivered' AND dmarc_expected THEN 1 ELSE 0 END AS is_dmarc_expected
    FROM events
    WHERE event_type IN ('delivered', 'complained', 'unsubscribed') AND provider IN ('google', 'microsoft')
    UNION ALL
    SELECT
        tenant_id,
        provider,
        COALESCE(dkim_domain, header_from_domain) AS sending_domain,
        source_ip,
        CAST(delivered_at AS DATE) AS delivery_day,
        retracted_at AS known_at,
        0 AS is_delivery,
        -1 AS is_complaint,
        0 AS is_report,
        0 AS is_unsubscribe,
        0 AS is_computed,
        0 AS is_spf_aligned,
        0 AS is_dkim_aligned,
        0 AS is_dmarc_expected
    FROM retracted_complaints
    WHERE provider IN ('google', 'microsoft')
),

counted AS (
    SELECT
        clock.as_of,
        tenant_id,
        provider,
        sending_domain,
        source_ip,
        delivery_day,
        SUM(is_delivery) AS deliveries,
        SUM(is_complaint) AS complaints,
        SUM(is_report) AS reports,
        SUM(is_unsubscribe) AS unsubscribes,
        SUM(is_computed) AS computed,
        SUM(is_spf_aligned) AS spf_aligned,
        SUM(is_dkim_aligned) AS dkim_aligned,
        SUM(is_dmarc_expected) AS dmarc_expected
    FROM (SELECT as_of FROM as_of) AS clock
    CROSS JOIN facts
    WHERE known_at <= clock.as_of AND delivery_day IS NOT NULL
    GROUP BY clock.as_of, tenant_id, provider, sending_domain, source_ip, delivery_day
),

placed AS (
    SELECT counted.*, tenant_id AS owner, 'domain' AS kind, sending_domain AS name
    FROM counted
    UNION ALL
    SELECT counted.*, tenant_id AS owner, 'ip' AS kind, source_ip AS name
    FROM counted
    WHERE tenant_id <> 'platform'
    UNION ALL
    SELECT counted.*, 'platform' AS owner, 'ip' AS kind, source_ip AS name
    FROM counted
),

ours AS (
    SELECT
        as_of AS ours_as_of,
        owner,
        provider AS ours_provider,
        kind,
        name,
        delivery_day,
        SUM(deliveries) AS deliveries,
        SUM(complaints) AS complaints,
        SUM(unsubscribes) AS unsubscribes,
        SUM(computed) AS computed,
        SUM(spf_aligned) AS spf_aligned,
        SUM(dkim_aligned) AS dkim_aligned,
        SUM(dmarc_expected) AS dmarc_expected
    FROM placed
    GROUP BY as_of, owner, provider, kind, name, delivery_day
),

heard AS (
    SELECT as_of AS heard_as_of, owner AS heard_owner, provider AS heard_provider, kind AS heard_kind, name AS heard_name
    FROM placed
    GROUP BY as_of, owner, provider, kind, name
    HAVING SUM(reports) > 0
),

enrolled AS (
    SELECT provider AS loop_provider, identity_kind AS loop_kind, identity AS loop_identity, MIN(since) AS enrolled_at
    FROM feedback_loops
    GROUP BY provider, identity_kind, identity
),

joined AS (
    SELECT
        told.*,
        ours.deliveries,
        ours.complaints,
        ours.unsubscribes,
        ours.computed,
        ours.spf_aligned,
        ours.dkim_aligned,
        ours.dmarc_expected,
        CASE WHEN heard.heard_name IS NOT NULL OR enrolled.enrolled_at <= told.as_of THEN 1 ELSE 0 END AS is_covered
    FROM told
    LEFT JOIN ours
        ON ours.ours_as_of = told.as_of
        AND ours.owner = told.tenant_id
        AND ours.ours_provider = told.provider
        AND ours.kind = told.identity_kind
        AND ours.name = told.identity
        AND ours.delivery_day = told.report_date
    LEFT JOIN heard
        ON heard.heard_as_of = told.as_of
        AND heard.heard_owner = told.tenant_id
        AND heard.heard_provider = told.provider
        AND heard.heard_kind = told.identity_kind
        AND heard.heard_name = told.identity
    LEFT JOIN enrolled
        ON enrolled.loop_provider = told.provider
        AND enrolled.loop_kind = told.identity_kind
        AND enrolled.loop_identity = told.identity
),

rated AS (
    SELECT
        joined.*,
        CASE WHEN deliveries > 0 AND is_covered = 1 THEN CAST(complaints AS DOUBLE) / CAST(deliveries AS DOUBLE) END
            AS our_complaint_rate,
        CASE WHEN deliveries > 0 THEN CAST(unsubscribes AS DOUBLE) / CAST(deliveries AS DOUBLE) END
            AS our_unsubscribe_rate,
        CASE
            WHEN deliveries > 0
            THEN CAST(CASE WHEN is_covered = 1 THEN complaints ELSE unsubscribes END AS DOUBLE) / CAST(deliveries AS DOUBLE)
        END AS our_rate
    FROM joined
)

SELECT
    as_of,
    tenant_id,
    provider,
    identity_kind,
    identity,
    report_date AS day,
    their_spam_rate,
    their_spam_rate_lower,
    their_spam_rate_upper,
    our_rate,
    CASE WHEN our_rate IS NOT NULL THEN CASE WHEN is_covered = 1 THEN 'complaints' ELSE 'unsubscribes' END END
        AS our_basis,
    CASE WHEN their_spam_rate > 0 THEN our_rate / their_spam_rate END AS ratio,
    our_rate >= their_spam_rate_lower AND our_rate <= their_spam_rate_upper AS within_bounds,
    our_complaint_rate,
    our_unsubscribe_rate,
    CAST(deliveries AS BIGINT) AS our_deliveries,
    CASE WHEN is_covered = 1 THEN CAST(complaints AS BIGINT) END AS our_complaints,
    CAST(unsubscribes AS BIGINT) AS our_unsubscribes,
    CAST(their_recipients AS BIGINT) AS their_recipients,
    reputation,
    CAST(trap_hits AS BIGINT) AS trap_hits,
    blocked = 1 AS is_blocked,
    their_spf_share,
    their_dkim_share,
    their_dmarc_share,
    CASE WHEN computed > 0 THEN CAST(spf_aligned AS DOUBLE) / CAST(computed AS DOUBLE) END AS our_spf_share,
    CASE WHEN computed > 0 THEN CAST(dkim_aligned AS DOUBLE) / CAST(computed AS DOUBLE) END AS our_dkim_share,
    CASE WHEN computed > 0 THEN CAST(dmarc_expected AS DOUBLE) / CAST(computed AS DOUBLE) END AS our_dmarc_share,
    recorded_at,
    CAST(GREATEST(FLOOR((first_recorded_s - end_s) / 86400), 0.0) AS BIGINT) AS lag_days
FROM rated
