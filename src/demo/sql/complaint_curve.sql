-- The campaign's complaint curve where complaints can be seen: for each hour since its first delivery, complaints
-- so far per delivery so far.
WITH campaign AS (
    SELECT event_type, occurred_at, recorded_at
    FROM events
    WHERE tenant_id = 'acme' AND campaign_id = 'autumn-sale' AND provider = 'yahoo-like'
        AND event_type IN ('delivered', 'complained')
),

started AS (
    SELECT MIN(occurred_at) AS started_at FROM campaign WHERE event_type = 'delivered'
),

hours AS (
    SELECT
        CAST(FLOOR((date_part('epoch', campaign.recorded_at) - date_part('epoch', started.started_at)) / 3600) AS BIGINT) AS hour,
        SUM(CASE WHEN campaign.event_type = 'delivered' THEN 1 ELSE 0 END) AS deliveries,
        SUM(CASE WHEN campaign.event_type = 'complained' THEN 1 ELSE 0 END) AS complaints
    FROM campaign CROSS JOIN started
    GROUP BY 1
)

SELECT
    hour,
    SUM(deliveries) OVER (ORDER BY hour) AS deliveries,
    SUM(complaints) OVER (ORDER BY hour) AS complaints,
    CAST(SUM(complaints) OVER (ORDER BY hour) AS DOUBLE) / NULLIF(SUM(deliveries) OVER (ORDER BY hour), 0) AS rate
FROM hours
ORDER BY hour
