-- quotas
-- What: the limits that the sender is to obey: warm-up ceilings and complaint pacing.
-- Grain: as_of × tenant × stream × identity × provider, in the columns of the published table.
-- Consumer: the publisher, which writes it to the table `quotas`; `sendlake quota explain`.
-- Cost: the views complaint_baseline and warmup_ceiling: two scans of events, and two of quota_changed.
-- Notes:
--   Warm-up: one row a stream and provider group, for domains that have not graduated everywhere. Each stream has the
--   ceiling to itself, so that a newsletter does not use up what receipts may send.
--   Complaints: every registered domain has a row for each stream and provider '*', so that the sender knows it was
--   judged. Twice the baseline at one provider that reports complaints cuts the stream at every provider, since the others
--   see the same mail: to a tenth of the normal day, 50 at least, while the review is open. 0.3 % pauses. Transactional
--   is throttled at worst, to no less than its own volume. Cold counts: a complaint holds the day, a second within
--   seven days pauses. A review that was stopped pauses until it is approved.
--   reason stays the same while a review is open, since held mail quotes it.
WITH evidence AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, covered, deliveries, complaints, rate, rate_lower,
        baseline_rate, normal_daily, complaints_today, complaints_seven_days, age_h,
        CASE WHEN flagged THEN 1 ELSE 0 END AS is_flagged,
        CASE WHEN pauses THEN 1 ELSE 0 END AS is_pause,
        CASE WHEN warns THEN 1 ELSE 0 END AS is_warning,
        CAST(ROUND(rate * 100000) AS BIGINT) AS rate_e5,
        CAST(FLOOR(rate_lower * 100000) AS BIGINT) AS lower_e5,
        CAST(ROUND(baseline_rate * 100000) AS BIGINT) AS baseline_e5,
        baseline_source
    FROM complaint_baseline
),

worded AS (
    SELECT
        evidence.*,
        CASE
            WHEN stream = 'cold' THEN
                provider || ' reported ' || CAST(complaints_seven_days AS STRING) || ' of its complaints in seven days'
            WHEN rate IS NOT NULL THEN
                provider || ' shows '
                || CAST(CAST(FLOOR(rate_e5 / 1000.0) AS BIGINT) AS STRING) || '.'
                || SUBSTR(CAST(1000 + rate_e5 % 1000 AS STRING), 2, 3) || ' % complaints (at least '
                || CAST(CAST(FLOOR(lower_e5 / 1000.0) AS BIGINT) AS STRING) || '.'
                || SUBSTR(CAST(1000 + lower_e5 % 1000 AS STRING), 2, 3) || ' %, '
                || CAST(complaints AS STRING) || ' of ' || CAST(deliveries AS STRING)
                || ' deliveries, an estimate) against a baseline of '
                || CAST(CAST(FLOOR(baseline_e5 / 1000.0) AS BIGINT) AS STRING) || '.'
                || SUBSTR(CAST(1000 + baseline_e5 % 1000 AS STRING), 2, 3) || ' % (' || baseline_source || ')'
        END AS words,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, stream, sending_domain
            ORDER BY
                CASE WHEN stream = 'cold' THEN complaints_seven_days ELSE 0 END DESC,
                is_pause DESC, is_flagged DESC, rate / baseline_rate DESC NULLS LAST, provider, age_h
        ) AS place
    FROM evidence
),

-- One row a provider, and one ('*') for all together.
by_provider AS (
    SELECT
        as_of, tenant_id, stream, sending_domain,
        CASE WHEN level = 1 THEN '*' ELSE provider END AS provider,
        MAX(CASE WHEN covered THEN 1 ELSE 0 END) AS is_covered,
        MAX(is_flagged) AS is_flagged,
        MAX(is_pause) AS is_pause,
        MAX(is_warning) AS is_warning,
        MAX(CASE WHEN place = 1 THEN words END) AS words,
        MAX(CASE WHEN place = 1 THEN provider END) AS worst_provider,
        SUM(CASE WHEN age_h = 1 THEN COALESCE(normal_daily, 0.0) ELSE 0.0 END) AS normal_daily,
        CAST(SUM(CASE WHEN age_h = 1 THEN deliveries ELSE 0 END) AS BIGINT) AS deliveries,
        CAST(SUM(CASE WHEN age_h = 1 THEN complaints ELSE 0 END) AS BIGINT) AS complaints,
        SUM(CASE WHEN age_h = 1 THEN complaints_today ELSE 0 END) AS complaints_today,
        SUM(CASE WHEN age_h = 1 THEN complaints_seven_days ELSE 0 END) AS complaints_seven_days
    FROM worded
    CROSS JOIN (VALUES (0), (1)) AS levels (level)
    GROUP BY as_of, tenant_id, stream, sending_domain, CASE WHEN level = 1 THEN '*' ELSE provider END
    UNION ALL
    SELECT
        clock.as_of, domains.tenant_id, streams.stream, domains.domain, '*',
        0, 0, 0, 0, CAST(NULL AS STRING), CAST(NULL AS STRING), 0.0, CAST(0 AS BIGINT), CAST(0 AS BIGINT), 0, 0
    FROM as_of AS clock
    CROSS JOIN domains
    CROSS JOIN (VALUES ('transactional'), ('marketing'), ('cold')) AS streams (stream)
),

merged AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider,
        MAX(is_covered) AS is_covered,
        MAX(is_flagged) AS is_flagged,
        MAX(is_pause) AS is_pause,
        MAX(is_warning) AS is_warning,
        MAX(words) AS words,
        MAX(worst_provider) AS worst_provider,
        SUM(normal_daily) AS normal_daily,
        SUM(deliveries) AS deliveries,
        SUM(complaints) AS complaints,
        SUM(complaints_today) AS complaints_today,
        SUM(complaints_seven_days) AS complaints_seven_days
    FROM by_provider
    GROUP BY as_of, tenant_id, stream, sending_domain, provider
),

-- What was found at one provider counts for the identity.
identities AS (
    SELECT
        merged.*,
        MAX(is_flagged) OVER (PARTITION BY as_of, tenant_id, stream, sending_domain) AS any_flagged,
        MAX(is_pause) OVER (PARTITION BY as_of, tenant_id, stream, sending_domain) AS any_pause,
        MAX(complaints_today) OVER (PARTITION BY as_of, tenant_id, stream, sending_domain) AS cold_today,
        MAX(complaints_seven_days) OVER (PARTITION BY as_of, tenant_id, stream, sending_domain) AS cold_seven_days,
        MAX(words) OVER (PARTITION BY as_of, tenant_id, stream, sending_domain) AS worst_words
    FROM merged
),

decided AS (
    SELECT
        identities.*,
        reviews.state AS review_state,
        CASE WHEN reviews.state IN ('open', 'stopped') THEN reviews.reason ELSE worst_words END AS why,
        CASE
            WHEN reviews.state = 'stopped' THEN 'paused'
            WHEN identities.stream = 'transactional' THEN
                CASE
                    WHEN any_flagged = 1 OR any_pause = 1 OR reviews.state = 'open' THEN 'throttled' ELSE 'normal'
                END
            WHEN identities.stream = 'cold' THEN
                CASE
                    WHEN cold_seven_days >= 2 OR reviews.state = 'open' THEN 'paused'
                    WHEN cold_today >= 1 THEN 'throttled'
                    ELSE 'normal'
                END
            WHEN any_pause = 1 OR (reviews.state = 'open' AND reviews.paused_by_complaints) THEN 'paused'
            WHEN any_flagged = 1 OR reviews.state = 'open' THEN 'throttled'
            ELSE 'normal'
        END AS state
    FROM reviews
    RIGHT JOIN identities
        ON reviews.as_of = identities.as_of
        AND reviews.tenant_id = identities.tenant_id
        AND reviews.stream = identities.stream
        AND reviews.sending_domain = identities.sending_domain
),

pacing AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, state,
        CASE
            WHEN state = 'paused' THEN CAST(0 AS BIGINT)
            WHEN state = 'normal' THEN NULL
            WHEN stream = 'cold' THEN CAST(0 AS BIGINT)
            WHEN stream = 'transactional' THEN CAST(CEIL(GREATEST(normal_daily, deliveries * 1.0, 100.0)) AS BIGINT)
            ELSE CAST(CEIL(GREATEST(normal_daily / 10, 50.0)) AS BIGINT)
        END AS limit_messages,
        CASE
            WHEN review_state = 'stopped' THEN 'stopped_by_review'
            WHEN state = 'normal' THEN 'normal'
            WHEN stream = 'cold' AND state = 'throttled' THEN 'cold_complaint'
            ELSE 'complaint_pacing'
        END AS policy,
        CASE
            WHEN review_state = 'stopped' THEN 'stopped in review: ' || COALESCE(why, 'no reason given')
            WHEN state = 'normal' AND review_state = 'approved' THEN 'normal: complaints were reviewed and approved'
            WHEN state = 'normal' AND is_warning = 1 THEN 'normal, but close to the line of 0.3 %: ' || why
            WHEN state = 'normal' THEN 'normal'
            WHEN stream = 'cold' AND state = 'throttled' THEN
                'held for the rest of the UTC day: a complaint came today, a second within seven days pauses'
            WHEN stream = 'cold' THEN
                COALESCE(
                    CASE WHEN review_state = 'open' THEN why END,
                    'paused: ' || CAST(cold_seven_days AS STRING) || ' complaints within seven days'
                )
            WHEN provider <> '*' AND is_covered = 0 THEN provider || ' reports no complaints and is cut because ' || why
            WHEN provider = '*' OR why LIKE provider || ' shows %' THEN why
            ELSE 'cut because ' || why
        END AS reason,
        '"review":' || COALESCE('"' || review_state || '"', 'null')
        || ',"deliveries":' || CAST(CAST(deliveries AS BIGINT) AS STRING)
        || ',"complaints":' || CASE WHEN is_covered = 1 THEN CAST(CAST(complaints AS BIGINT) AS STRING) ELSE 'null' END
        || ',"normal_daily":' || CAST(CAST(ROUND(normal_daily) AS BIGINT) AS STRING)
        || ',"complaints_seven_days":' || CAST(CAST(complaints_seven_days AS BIGINT) AS STRING) AS numbers
    FROM decided
    WHERE provider = '*' OR state <> 'normal'
),

limits AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, limit_messages, state, policy, reason, numbers
    FROM pacing
    UNION ALL
    SELECT
        as_of,
        tenant_id,
        streams.stream,
        sending_domain,
        provider,
        daily_limit,
        CASE WHEN graduated THEN 'normal' ELSE 'warming' END,
        'warmup',
        CASE
            WHEN graduated THEN
                'warm: ' || CAST(good_deliveries AS STRING) || ' good deliveries'
            WHEN bad_days > 0 THEN
                'warming up: back at stage ' || CAST(stage AS STRING) || ' of ' || CAST(stages AS STRING)
                || ', bad days among the last seven: ' || CAST(bad_days AS STRING)
            ELSE
                'warming up: stage ' || CAST(stage AS STRING) || ' of ' || CAST(stages AS STRING) || ', '
                || CAST(good_deliveries AS STRING) || ' of ' || CAST(needed AS STRING)
                || ' good deliveries for the next'
        END,
        '"good_deliveries":' || CAST(good_deliveries AS STRING)
        || ',"bad_days":' || CAST(bad_days AS STRING)
        || ',"stage":' || COALESCE(CAST(stage AS STRING), 'null')
        || ',"needed":' || COALESCE(CAST(needed AS STRING), 'null')
    FROM warmup_ceiling
    CROSS JOIN (VALUES ('transactional'), ('marketing'), ('cold')) AS streams (stream)
    WHERE NOT warm
)

SELECT
    tenant_id,
    stream,
    'sending_domain' AS identity_kind,
    sending_domain AS identity,
    provider,
    CAST(86400 AS BIGINT) AS window_s,
    limit_messages,
    state,
    reason,
    '{"policy":"' || policy || '",' || numbers || '}' AS inputs,
    'quotas 1' AS view_version,
    as_of,
    as_of + INTERVAL '15' MINUTE AS valid_until
FROM limits
