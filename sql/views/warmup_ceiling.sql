-- warmup_ceiling
-- What: how much a sending domain that is still new may send a day, to each large provider and to all others.
-- Grain: as_of × tenant × sending domain × provider. google, microsoft, yahoo and apple always have a row, other
--   providers once they take a tenth of the tenant's mail and 1,000 of its messages; '(others)' pools the rest.
-- Consumer: quotas, the console, `sendlake quota explain`.
-- Cost: one scan of events, folded by day, and retracted_complaints. Reads nothing older than 91 days.
-- Notes: good deliveries are those of the days before today (UTC), less bounces that came later, so a ceiling stands for
--   a day. Stages: 200, 400, 800, 1,600, 2,000 a day; each is passed on the volume of one full day (200, 600, 1,400,
--   3,000, 5,000 good deliveries in all); at 5,000 the domain has graduated. Each bad day of the last seven, today
--   included, steps back one stage. Bad is a day with at least three hard bounces (full and disabled mailboxes apart)
--   above 5 % of what was attempted; two complaints at 0.3 % or more of deliveries; five refusals of class block above
--   10 %; or twenty throttled attempts that are more than half of all. A domain with warm_at has sent
--   in volume elsewhere and needs no warm-up. Silence of 91 days starts anew. What another sender sent
--   (ip_pool 'elsewhere:…') counts neither for nor against: receivers have not seen this installation send it.
WITH facts AS (
    SELECT
        tenant_id,
        COALESCE(dkim_domain, header_from_domain) AS sending_domain,
        COALESCE(provider, '(unknown)') AS provider,
        event_type,
        date_part('epoch', COALESCE(delivered_at, occurred_at)) AS counted_s,
        CASE
            WHEN event_type IN ('bounced', 'bounced_async') AND bounce_class = 'hard'
                AND COALESCE(bounce_reason, '') NOT IN ('mailbox_full', 'mailbox_disabled')
            THEN 1 ELSE 0
        END AS is_hard,
        CASE WHEN event_type = 'bounced' AND bounce_class = 'block' THEN 1 ELSE 0 END AS is_block,
        CASE
            WHEN event_type = 'deferred' AND bounce_category IN ('throttling', 'reputation_block')
                AND COALESCE(bounce_reason, '') <> 'greylisted'
            THEN 1 ELSE 0
        END AS is_throttled,
        date_part('epoch', recorded_at) AS recorded_s
    FROM events
    WHERE event_type IN ('delivered', 'bounced', 'deferred', 'bounced_async', 'complained')
        AND COALESCE(ip_pool, '') NOT LIKE 'elsewhere:%'
    UNION ALL
    -- a complaint that was taken back counts no more from then on
    SELECT
        tenant_id,
        COALESCE(dkim_domain, header_from_domain) AS sending_domain,
        COALESCE(provider, '(unknown)') AS provider,
        'retracted' AS event_type,
        date_part('epoch', COALESCE(delivered_at, occurred_at)) AS counted_s,
        0 AS is_hard,
        0 AS is_block,
        0 AS is_throttled,
        date_part('epoch', retracted_at) AS recorded_s
    FROM retracted_complaints
    WHERE COALESCE(ip_pool, '') NOT LIKE 'elsewhere:%'
),

cells AS (
    SELECT
        clock.as_of,
        tenant_id,
        sending_domain,
        provider,
        CAST(FLOOR(counted_s / 86400) AS BIGINT) AS day,
        CAST(FLOOR(clock.as_of_s / 86400) AS BIGINT) AS today,
        SUM(CASE WHEN event_type = 'delivered' THEN 1 ELSE 0 END) AS deliveries,
        SUM(CASE WHEN event_type IN ('delivered', 'bounced') THEN 1 ELSE 0 END) AS attempted,
        SUM(CASE WHEN event_type IN ('delivered', 'bounced', 'deferred') THEN 1 ELSE 0 END) AS attempts,
        SUM(is_hard) AS hard,
        SUM(CASE WHEN event_type = 'bounced_async' THEN is_hard ELSE 0 END) AS hard_later,
        SUM(is_block) AS blocked,
        SUM(is_throttled) AS throttled,
        SUM(CASE WHEN event_type = 'complained' THEN 1 WHEN event_type = 'retracted' THEN -1 ELSE 0 END) AS complaints
    FROM (SELECT as_of, date_part('epoch', as_of) AS as_of_s FROM as_of) AS clock
    CROSS JOIN facts
    WHERE facts.recorded_s <= clock.as_of_s
        AND facts.counted_s <= clock.as_of_s
        AND facts.counted_s > clock.as_of_s - 91 * 86400
    GROUP BY clock.as_of, clock.as_of_s, tenant_id, sending_domain, provider, CAST(FLOOR(counted_s / 86400) AS BIGINT)
),

shared AS (
    SELECT
        cells.*,
        SUM(attempted) OVER (PARTITION BY as_of, tenant_id, provider) AS attempted_there,
        SUM(attempted) OVER (PARTITION BY as_of, tenant_id) AS attempted_anywhere
    FROM cells
),

grouped AS (
    SELECT
        as_of,
        tenant_id,
        sending_domain,
        CASE
            WHEN provider IN ('google', 'microsoft', 'yahoo', 'apple')
                OR (attempted_there >= 1000 AND attempted_there * 10 >= attempted_anywhere)
            THEN provider ELSE '(others)'
        END AS provider,
        today,
        day,
        deliveries, attempted, attempts, hard, hard_later, blocked, throttled, complaints
    FROM shared
),

daily AS (
    SELECT
        as_of, tenant_id, sending_domain, provider, today, day,
        SUM(deliveries) - SUM(hard_later) AS good,
        CASE
            WHEN SUM(hard) >= 3 AND SUM(hard) * 20 > SUM(attempted) THEN 1
            WHEN SUM(complaints) >= 2 AND SUM(complaints) * 1000 >= SUM(deliveries) * 3 THEN 1
            WHEN SUM(blocked) >= 5 AND SUM(blocked) * 10 > SUM(attempted) THEN 1
            WHEN SUM(throttled) >= 20 AND SUM(throttled) * 2 > SUM(attempts) THEN 1
            ELSE 0
        END AS is_bad
    FROM grouped
    GROUP BY as_of, tenant_id, sending_domain, provider, today, day
),

-- Every registered domain, with or without traffic.
spine AS (
    SELECT clock.as_of, domains.tenant_id, domains.domain AS sending_domain, groups.provider
    FROM as_of AS clock
    CROSS JOIN domains
    CROSS JOIN (
        VALUES ('google'), ('microsoft'), ('yahoo'), ('apple'), ('(others)')
    ) AS groups (provider)
),

counted AS (
    SELECT
        as_of, tenant_id, sending_domain, provider,
        GREATEST(SUM(CASE WHEN day < today THEN good ELSE 0 END), 0) AS good_deliveries,
        SUM(CASE WHEN day >= today - 7 THEN is_bad ELSE 0 END) AS bad_days
    FROM (
        SELECT as_of, tenant_id, sending_domain, provider, day, today, good, is_bad FROM daily
        UNION ALL
        SELECT as_of, tenant_id, sending_domain, provider, 0 AS day, 0 AS today, 0 AS good, 0 AS is_bad FROM spine
    ) AS traffic_and_spine
    GROUP BY as_of, tenant_id, sending_domain, provider
),

staged AS (
    SELECT
        counted.*,
        domains.warm_at,
        CASE
            WHEN domains.warm_at IS NOT NULL OR good_deliveries >= 5000 THEN 1 ELSE 0
        END AS is_graduated,
        GREATEST(
            CASE
                WHEN good_deliveries >= 3000 THEN 5
                WHEN good_deliveries >= 1400 THEN 4
                WHEN good_deliveries >= 600 THEN 3
                WHEN good_deliveries >= 200 THEN 2
                ELSE 1
            END - bad_days,
            1
        ) AS stage
    FROM counted
    JOIN domains
        ON domains.tenant_id = counted.tenant_id
        AND domains.domain = counted.sending_domain
)

SELECT
    as_of,
    tenant_id,
    sending_domain,
    provider,
    CAST(good_deliveries AS BIGINT) AS good_deliveries,
    CAST(bad_days AS BIGINT) AS bad_days,
    is_graduated = 1 AS graduated,
    warm_at IS NOT NULL AS warm,
    CASE WHEN is_graduated = 0 THEN CAST(stage AS BIGINT) END AS stage,
    CAST(5 AS BIGINT) AS stages,
    CASE
        WHEN is_graduated = 1 THEN NULL
        WHEN stage = 5 THEN CAST(5000 AS BIGINT)
        WHEN stage = 4 THEN CAST(3000 AS BIGINT)
        WHEN stage = 3 THEN CAST(1400 AS BIGINT)
        WHEN stage = 2 THEN CAST(600 AS BIGINT)
        ELSE CAST(200 AS BIGINT)
    END AS needed,
    CASE
        WHEN is_graduated = 1 THEN NULL
        WHEN stage = 5 THEN CAST(2000 AS BIGINT)
        WHEN stage = 4 THEN CAST(1600 AS BIGINT)
        WHEN stage = 3 THEN CAST(800 AS BIGINT)
        WHEN stage = 2 THEN CAST(400 AS BIGINT)
        ELSE CAST(200 AS BIGINT)
    END AS daily_limit
FROM staged
