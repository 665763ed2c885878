-- fbl_coverage
-- What: where complaints can be seen at all: what came from a provider's feedback loop, and who is enrolled in it.
-- Grain: as_of × tenant × sending domain × provider.
-- Consumer: whoever asks what a rate of no complaints is worth; the console.
-- Cost: one scan of events (delivered, complained) of 90 days, hashed by grain; feedback_loops is small.
-- Notes: covered: a complaint about the domain came in the last 90 days; or the domain is enrolled (basis 'domain'); or every
--   address that mail left from in 28 days is ('addresses'). Gmail and Apple have no loop that reports mails. is_silent: it is
--   enrolled, at least 10,000 deliveries in 28 days, and not one complaint in 90: the loop, or the way to it, may be broken.
--   deliveries and those from enrolled addresses are of the last 28 days, complaints of 90. Complaints that were taken back
--   count here: they show that the loop works. Reports that name no message of ours count in no domain's row.
WITH facts AS (
    SELECT
        clock.as_of,
        events.tenant_id,
        COALESCE(events.dkim_domain, events.header_from_domain, '(unknown)') AS sending_domain,
        COALESCE(events.provider, '(unknown)') AS provider,
        events.source_ip,
        events.recorded_at,
        CASE WHEN events.event_type = 'complained' THEN 1 ELSE 0 END AS is_complaint,
        CASE
            WHEN events.event_type = 'delivered' AND events.occurred_at > clock.as_of - INTERVAL '28' DAY THEN 1 ELSE 0
        END AS is_delivery
    FROM (SELECT as_of FROM as_of) AS clock
    CROSS JOIN events
    WHERE events.event_type IN ('delivered', 'complained')
        AND events.message_id IS NOT NULL
        AND events.recorded_at <= clock.as_of
        AND events.recorded_at > clock.as_of - INTERVAL '90' DAY
),

addresses AS (
    SELECT provider AS loop_provider, identity AS address, MIN(since) AS address_since
    FROM feedback_loops
    WHERE identity_kind = 'ip'
    GROUP BY provider, identity
),

enrolments AS (
    SELECT tenant_id AS loop_tenant, provider AS loop_provider, identity AS loop_domain, MIN(since) AS since
    FROM feedback_loops
    WHERE identity_kind = 'domain'
    GROUP BY tenant_id, provider, identity
),

counted AS (
    SELECT
        as_of,
        tenant_id,
        sending_domain,
        provider,
        SUM(is_delivery) AS deliveries,
        SUM(CASE WHEN address_since <= as_of THEN is_delivery ELSE 0 END) AS deliveries_from_enrolled,
        SUM(is_complaint) AS complaints,
        MIN(CASE WHEN is_complaint = 1 THEN recorded_at END) AS first_complaint_at,
        MAX(CASE WHEN is_complaint = 1 THEN recorded_at END) AS last_complaint_at
    FROM facts
    LEFT JOIN addresses ON addresses.loop_provider = facts.provider AND addresses.address = facts.source_ip
    GROUP BY as_of, tenant_id, sending_domain, provider
),

judged AS (
    SELECT
        counted.*,
        CASE WHEN enrolments.since <= counted.as_of THEN enrolments.since END AS enrolled_since,
        CASE
            WHEN complaints > 0 THEN 'reports'
            WHEN enrolments.since <= counted.as_of THEN 'domain'
            WHEN deliveries > 0 AND deliveries_from_enrolled = deliveries THEN 'addresses'
            ELSE 'none'
        END AS basis,
        CASE
            WHEN enrolments.since <= counted.as_of OR (deliveries > 0 AND deliveries_from_enrolled = deliveries) THEN 1
            ELSE 0
        END AS is_enrolled
    FROM counted
    LEFT JOIN enrolments
        ON enrolments.loop_tenant = counted.tenant_id
        AND enrolments.loop_domain = counted.sending_domain
        AND enrolments.loop_provider = counted.provider
)

SELECT
    as_of,
    tenant_id,
    sending_domain,
    provider,
    basis <> 'none' AS covered,
    basis,
    CAST(deliveries AS BIGINT) AS deliveries,
    CAST(deliveries_from_enrolled AS BIGINT) AS deliveries_from_enrolled,
    CAST(complaints AS BIGINT) AS complaints,
    first_complaint_at,
    last_complaint_at,
    enrolled_since,
    is_enrolled = 1 AND complaints = 0 AND deliveries >= 10000 AS is_silent
FROM judged
