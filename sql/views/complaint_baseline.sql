-- complaint_baseline
-- What: complaints of the last 24 hours' deliveries against the identity's own past, at equal age.
-- Grain: as_of × tenant × stream × sending domain × provider × age_h (1, 6, 24, 72).
-- Consumer: quotas (complaint pacing), the console, whoever asks how bad it is.
-- Cost: one scan of events (delivered, complained), folded by day before anything is joined; one of quota_changed, and
--   retracted_complaints. Reads nothing older than 91 days; over many instants the scan's rows are multiplied by them.
-- Notes:
--   Cohorts. A complaint counts against its delivery (delivered_at). At age a, deliveries count once they are a hours
--   old, and complaints that came within a hours. The current cohort is the 24 hours of deliveries that reached that
--   age last. Its baseline are the seven UTC days before, without the current cohort, without flagged days (twice the
--   28 days before them, 99 % sure) and without mail sent under an open review. With fewer than three sending
--   days: 28, then 56 days; then the tenant's domains together (same stream and provider); then the prior. Where
--   both 7 and 28 days speak the lower rate counts, so that a slow ramp does not carry its baseline with it.
--   Coverage. Where no complaint about the domain came in 90 days, and it is not enrolled in the provider's feedback loop
--   (feedback_loops), nor is every address that its mail left from in 28 days, nobody knows the rate: covered is false and
--   rates are NULL, never 0. See fbl_coverage.
--   Taken back. A complaint that its recipient took back (retracted_complaints) counts no more from then on: it stands here a
--   second time, with weight -1, in the same places. It still shows that complaints can be seen.
--   Smoothing. baseline_rate = (complaints + 1) / (deliveries + 2000): a gamma prior with mean 0.05 %, half of
--   the 0.1 % that Gmail and Yahoo tell senders to stay below. rate_lower is Byar's approximation of the lower
--   Poisson limit (Breslow and Day 1987, Statistical Methods in Cancer Research II, formula 2.13) at z = 3.9, widened by
--   the baseline's own uncertainty, sqrt(1 + deliveries / baseline deliveries): with looks every hour that is
--   under one false flag in 1,000 campaign-days (query/src/false_alarms.rs).
--   flagged: rate at least twice the baseline, at least 0.05 %, and rate_lower above the baseline. warns: at least 0.1 %
--   by three complaints. pauses: at least 0.3 %, and rate_lower at least 0.1 %.
--   Deliveries before the last approval of a review are in no current cohort. normal_daily is the mean of the
--   sending days of the last 28.
WITH facts AS (
    SELECT
        tenant_id,
        COALESCE(stream, 'transactional') AS stream,
        COALESCE(dkim_domain, header_from_domain, '(unknown)') AS sending_domain,
        COALESCE(provider, '(unknown)') AS provider,
        CASE WHEN event_type = 'complained' THEN 1 ELSE 0 END AS is_complaint,
        1 AS weight,
        -- seconds: comparing numbers costs a tenth of comparing instants with intervals
        date_part('epoch', CASE WHEN event_type = 'complained' THEN delivered_at ELSE occurred_at END) AS delivered_s,
        date_part('epoch', recorded_at) AS recorded_s,
        date_part('epoch', recorded_at) AS known_s,
        enrolled_s
    FROM events
    LEFT JOIN (
        SELECT provider AS loop_provider, identity AS address, MIN(date_part('epoch', since)) AS enrolled_s
        FROM feedback_loops
        WHERE identity_kind = 'ip'
        GROUP BY provider, identity
    ) AS addresses
        ON addresses.loop_provider = events.provider
        AND addresses.address = events.source_ip
    WHERE event_type IN ('delivered', 'complained')
    UNION ALL
    SELECT
        tenant_id,
        COALESCE(stream, 'transactional') AS stream,
        COALESCE(dkim_domain, header_from_domain, '(unknown)') AS sending_domain,
        COALESCE(provider, '(unknown)') AS provider,
        1 AS is_complaint,
        -1 AS weight,
        date_part('epoch', delivered_at) AS delivered_s,
        date_part('epoch', recorded_at) AS recorded_s,
        date_part('epoch', retracted_at) AS known_s,
        NULL AS enrolled_s
    FROM retracted_complaints
),

timed AS (
    SELECT clock.as_of, clock.as_of_s, facts.*
    FROM (SELECT as_of, date_part('epoch', as_of) AS as_of_s FROM as_of) AS clock
    CROSS JOIN facts
    WHERE facts.known_s <= clock.as_of_s
        AND facts.delivered_s <= clock.as_of_s
        AND facts.delivered_s > clock.as_of_s - 91 * 86400
),

placed AS (
    SELECT
        timed.as_of,
        timed.tenant_id,
        timed.stream,
        timed.sending_domain,
        timed.provider,
        timed.is_complaint,
        timed.weight,
        -- of deliveries in 28 days: 1 from an address that is enrolled, 2 from another
        CASE
            WHEN timed.is_complaint = 1 OR timed.delivered_s <= timed.as_of_s - 28 * 86400 THEN 0
            WHEN timed.enrolled_s <= timed.as_of_s THEN 1
            ELSE 2
        END AS enrolment,
        CAST(FLOOR(timed.delivered_s / 86400) AS BIGINT) AS day,
        -- the highest of the bounds (an age, or an age and 24 hours) that the delivery has reached
        CASE
            WHEN timed.delivered_s > timed.as_of_s - 1 * 3600 THEN 0
            WHEN timed.delivered_s > timed.as_of_s - 6 * 3600 THEN 1
            WHEN timed.delivered_s > timed.as_of_s - 24 * 3600 THEN 6
            WHEN timed.delivered_s > timed.as_of_s - 25 * 3600 THEN 24
            WHEN timed.delivered_s > timed.as_of_s - 30 * 3600 THEN 25
            WHEN timed.delivered_s > timed.as_of_s - 48 * 3600 THEN 30
            WHEN timed.delivered_s > timed.as_of_s - 72 * 3600 THEN 48
            WHEN timed.delivered_s > timed.as_of_s - 96 * 3600 THEN 72
            ELSE 96
        END AS matured_h,
        CASE
            WHEN timed.is_complaint = 0 THEN 0
            WHEN timed.recorded_s <= timed.delivered_s + 1 * 3600 THEN 1
            WHEN timed.recorded_s <= timed.delivered_s + 6 * 3600 THEN 6
            WHEN timed.recorded_s <= timed.delivered_s + 24 * 3600 THEN 24
            WHEN timed.recorded_s <= timed.delivered_s + 72 * 3600 THEN 72
            ELSE 9999
        END AS delay_h,
        CASE
            WHEN timed.is_complaint = 0 THEN 9
            WHEN timed.recorded_s > timed.as_of_s - 7 * 86400
            THEN CAST(FLOOR(timed.as_of_s / 86400) AS BIGINT) - CAST(FLOOR(timed.recorded_s / 86400) AS BIGINT)
            ELSE 9
        END AS days_ago,
        CASE WHEN date_part('epoch', reviews.approved_at) >= timed.delivered_s THEN 1 ELSE 0 END AS is_forgiven,
        CASE
            WHEN reviews.state <> 'approved' AND timed.delivered_s >= date_part('epoch', reviews.since) THEN 1 ELSE 0
        END AS is_under_review
    FROM reviews
    RIGHT JOIN timed
        ON reviews.as_of = timed.as_of
        AND reviews.tenant_id = timed.tenant_id
        AND reviews.stream = timed.stream
        AND reviews.sending_domain = timed.sending_domain
),

cells AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, is_complaint, day, matured_h, delay_h, days_ago,
        is_forgiven, is_under_review, enrolment,
        CAST(SUM(weight) AS BIGINT) AS messages,
        COUNT(CASE WHEN weight = 1 THEN 1 END) AS messages_seen
    FROM placed
    GROUP BY
        as_of, tenant_id, stream, sending_domain, provider, is_complaint, day, matured_h, delay_h, days_ago,
        is_forgiven, is_under_review, enrolment
),

aged AS (
    SELECT
        cells.*,
        age_h,
        CAST(FLOOR((date_part('epoch', as_of) - age_h * 3600) / 86400) AS BIGINT) AS today,
        CASE WHEN matured_h >= age_h AND matured_h < age_h + 24 AND is_forgiven = 0 THEN 1 ELSE 0 END AS is_current,
        CASE WHEN matured_h >= age_h + 24 AND is_under_review = 0 THEN 1 ELSE 0 END AS is_past
    FROM cells
    CROSS JOIN (VALUES (1), (6), (24), (72)) AS ages (age_h)
),

daily AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, age_h, today, day,
        CAST(SUM(CASE WHEN is_complaint = 0 AND is_current = 1 THEN messages ELSE 0 END) AS DOUBLE)
            AS current_deliveries,
        CAST(SUM(CASE WHEN is_complaint = 1 AND is_current = 1 AND delay_h <= age_h THEN messages ELSE 0 END) AS DOUBLE)
            AS current_complaints,
        CAST(SUM(CASE WHEN is_complaint = 0 AND is_past = 1 THEN messages ELSE 0 END) AS DOUBLE) AS deliveries,
        CAST(SUM(CASE WHEN is_complaint = 1 AND is_past = 1 AND delay_h <= age_h THEN messages ELSE 0 END) AS DOUBLE)
            AS complaints,
        SUM(is_complaint * messages_seen) AS complaints_seen,
        SUM(CASE WHEN enrolment = 1 THEN messages ELSE 0 END) AS from_enrolled,
        SUM(CASE WHEN enrolment = 2 THEN messages ELSE 0 END) AS from_others,
        SUM(CASE WHEN is_forgiven = 0 AND days_ago = 0 THEN messages ELSE 0 END) AS complaints_today,
        SUM(CASE WHEN is_forgiven = 0 AND days_ago <= 7 THEN messages ELSE 0 END) AS complaints_seven_days
    FROM aged
    GROUP BY as_of, tenant_id, stream, sending_domain, provider, age_h, today, day
),

compared AS (
    SELECT
        daily.*,
        COALESCE(SUM(deliveries) OVER (
            PARTITION BY as_of, tenant_id, stream, sending_domain, provider, age_h
            ORDER BY day RANGE BETWEEN 28 PRECEDING AND 1 PRECEDING
        ), 0) AS deliveries_before,
        COALESCE(SUM(complaints) OVER (
            PARTITION BY as_of, tenant_id, stream, sending_domain, provider, age_h
            ORDER BY day RANGE BETWEEN 28 PRECEDING AND 1 PRECEDING
        ), 0) AS complaints_before
    FROM daily
),

-- A day that stood out from the 28 before it is no measure of what is normal.
measured AS (
    SELECT
        compared.*,
        CASE
            WHEN deliveries = 0 THEN 0
            WHEN complaints >= 2 AND complaints >= 0.0005 * deliveries
                AND complaints * (deliveries_before + 2000.0) >= 2 * deliveries * (complaints_before + 1.0)
                AND complaints * POWER(GREATEST(
                    1 - 1 / (9.0 * complaints) - 2.33 / (3 * SQRT(complaints)), 0.0
                ), 3) * (deliveries_before + 2000.0) > deliveries * (complaints_before + 1.0)
            THEN 0
            ELSE 1
        END AS is_normal
    FROM compared
),

totals AS (
    SELECT
        as_of, tenant_id, stream, sending_domain, provider, age_h,
        SUM(current_deliveries) AS deliveries,
        SUM(current_complaints) AS complaints,
        SUM(complaints_seen) AS complaints_seen,
        SUM(from_enrolled) AS from_enrolled,
        SUM(from_others) AS from_others,
        SUM(complaints_today) AS complaints_today,
        SUM(complaints_seven_days) AS complaints_seven_days,
        SUM(CASE WHEN day >= today - 7 AND day < today THEN is_normal ELSE 0 END) AS days_7,
        SUM(CASE WHEN day >= today - 7 AND day < today THEN is_normal * deliveries ELSE 0 END) AS deliveries_7,
        SUM(CASE WHEN day >= today - 7 AND day < today THEN is_normal * complaints ELSE 0 END) AS complaints_7,
        SUM(CASE WHEN day >= today - 28 AND day < today THEN is_normal ELSE 0 END) AS days_28,
        SUM(CASE WHEN day >= today - 28 AND day < today THEN is_normal * deliveries ELSE 0 END) AS deliveries_28,
        SUM(CASE WHEN day >= today - 28 AND day < today THEN is_normal * complaints ELSE 0 END) AS complaints_28,
        SUM(CASE WHEN day >= today - 56 AND day < today THEN is_normal ELSE 0 END) AS days_56,
        SUM(CASE WHEN day >= today - 56 AND day < today THEN is_normal * deliveries ELSE 0 END) AS deliveries_56,
        SUM(CASE WHEN day >= today - 56 AND day < today THEN is_normal * complaints ELSE 0 END) AS complaints_56
    FROM measured
    GROUP BY as_of, tenant_id, stream, sending_domain, provider, age_h
),

covering AS (
    SELECT
        totals.*,
        CASE
            WHEN enrolled.since_s <= date_part('epoch', totals.as_of) THEN 1
            WHEN SUM(complaints_seen) OVER (
                PARTITION BY totals.as_of, totals.tenant_id, totals.sending_domain, totals.provider, totals.age_h
            ) > 0 THEN 1
            WHEN SUM(from_enrolled) OVER (
                PARTITION BY totals.as_of, totals.tenant_id, totals.sending_domain, totals.provider, totals.age_h
            ) > 0 AND SUM(from_others) OVER (
                PARTITION BY totals.as_of, totals.tenant_id, totals.sending_domain, totals.provider, totals.age_h
            ) = 0 THEN 1
            ELSE 0
        END AS is_covered
    FROM totals
    LEFT JOIN (
        SELECT tenant_id, identity, provider, MIN(date_part('epoch', since)) AS since_s
        FROM feedback_loops
        WHERE identity_kind = 'domain'
        GROUP BY tenant_id, identity, provider
    ) AS enrolled
        ON enrolled.tenant_id = totals.tenant_id
        AND enrolled.identity = totals.sending_domain
        AND enrolled.provider = totals.provider
),

pooled AS (
    SELECT
        covering.*,
        SUM(is_covered * days_56) OVER (PARTITION BY as_of, tenant_id, stream, provider, age_h) AS days_all,
        SUM(is_covered * deliveries_56) OVER (PARTITION BY as_of, tenant_id, stream, provider, age_h)
            AS deliveries_all,
        SUM(is_covered * complaints_56) OVER (PARTITION BY as_of, tenant_id, stream, provider, age_h)
            AS complaints_all
    FROM covering
),

chosen AS (
    SELECT
        pooled.*,
        CASE
            WHEN days_7 >= 3
                AND (complaints_7 + 1.0) / (deliveries_7 + 2000.0) <= (complaints_28 + 1.0) / (deliveries_28 + 2000.0)
            THEN '7 days'
            WHEN days_28 >= 3 THEN '28 days'
            WHEN days_56 >= 3 THEN '56 days'
            WHEN days_all >= 3 THEN 'all domains'
            ELSE 'prior'
        END AS baseline_source
    FROM pooled
),

based AS (
    SELECT
        chosen.*,
        CASE baseline_source
            WHEN '7 days' THEN days_7 WHEN '28 days' THEN days_28 WHEN '56 days' THEN days_56
            WHEN 'all domains' THEN days_all ELSE 0
        END AS baseline_days,
        CASE baseline_source
            WHEN '7 days' THEN deliveries_7 WHEN '28 days' THEN deliveries_28 WHEN '56 days' THEN deliveries_56
            WHEN 'all domains' THEN deliveries_all ELSE 0
        END AS baseline_deliveries,
        CASE baseline_source
            WHEN '7 days' THEN complaints_7 WHEN '28 days' THEN complaints_28 WHEN '56 days' THEN complaints_56
            WHEN 'all domains' THEN complaints_all ELSE 0
        END AS baseline_complaints
    FROM chosen
),

bounded AS (
    SELECT
        based.*,
        CASE WHEN is_covered = 1 THEN (baseline_complaints + 1.0) / (baseline_deliveries + 2000.0) END AS baseline_rate,
        CASE WHEN is_covered = 1 AND deliveries > 0 THEN CAST(complaints AS DOUBLE) / deliveries END AS rate,
        CASE
            WHEN is_covered = 0 OR deliveries = 0 THEN NULL
            WHEN complaints = 0 THEN 0.0
            ELSE complaints * POWER(GREATEST(
                1 - 1 / (9.0 * complaints)
                    - 3.9 * SQRT(
                        CASE
                            WHEN baseline_source = 'prior' THEN 1.0
                            ELSE 1 + deliveries / (baseline_deliveries + 2000.0)
                        END
                    ) / (3 * SQRT(complaints)),
                0.0
            ), 3) / deliveries
        END AS rate_lower
    FROM based
)

SELECT
    as_of,
    tenant_id,
    stream,
    sending_domain,
    provider,
    CAST(age_h AS BIGINT) AS age_h,
    is_covered = 1 AS covered,
    CAST(deliveries AS BIGINT) AS deliveries,
    CAST(complaints AS BIGINT) AS complaints,
    rate,
    rate_lower,
    baseline_source,
    CAST(baseline_days AS BIGINT) AS baseline_days,
    CAST(baseline_deliveries AS BIGINT) AS baseline_deliveries,
    CAST(baseline_complaints AS BIGINT) AS baseline_complaints,
    baseline_rate,
    rate / baseline_rate AS ratio,
    COALESCE(rate >= 2 * baseline_rate AND rate >= 0.0005 AND rate_lower > baseline_rate, FALSE) AS flagged,
    COALESCE(rate >= 0.001 AND complaints >= 3, FALSE) AS warns,
    COALESCE(rate >= 0.003 AND rate_lower >= 0.001, FALSE) AS pauses,
    CASE WHEN days_28 > 0 THEN CAST(deliveries_28 AS DOUBLE) / days_28 END AS normal_daily,
    CAST(complaints_today AS BIGINT) AS complaints_today,
    CAST(complaints_seven_days AS BIGINT) AS complaints_seven_days
FROM bounded
