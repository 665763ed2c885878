-- engagement
-- What: what recipients did with the mail that reached them: opened, clicked, left; people apart from machines.
-- Grain: one row per tenant, stream, campaign, sending domain, provider and day of delivery.
-- Consumer: campaign reports; reputation, as a sign of health where tracking is on.
-- Cost: one scan of events each for deliveries, opens, clicks and answers, and three joins by message. Filter by day or campaign_id.
-- Notes: messages are counted, not events: a message counts once in each column. People are 'direct' and 'proxied'
--   (Gmail's proxy fetches when somebody looks); machines are 'prefetched' (Apple fetches whether or not anybody looks) and
--   'scanner'. Of a message that both asked for, the person counts. A click is a machine's too when a scanner was
--   recognised within the ten seconds after it by the number of links that it followed; an open, when one was within
--   ten seconds of it, before or after.
--   Rates are per message that was tracked, and NULL where none was: that nobody is seen does not mean that nobody was there.
--   day is the delivery's, so late answers change days that are past. sending_domain as in bounces.
WITH delivered AS (
    SELECT
        tenant_id,
        message_id,
        MAX(stream) AS stream,
        MAX(campaign_id) AS campaign_id,
        MAX(COALESCE(dkim_domain, header_from_domain)) AS sending_domain,
        MAX(provider) AS provider,
        CAST(MIN(occurred_at) AS DATE) AS delivery_day,
        MAX(CASE WHEN detail LIKE '%"opens":true%' THEN 1 ELSE 0 END) AS tracks_opens,
        MAX(CASE WHEN detail LIKE '%"clicks":true%' THEN 1 ELSE 0 END) AS tracks_clicks
    FROM events
    WHERE event_type = 'delivered' AND message_id IS NOT NULL
    GROUP BY tenant_id, message_id
),

bursts AS (
    SELECT tenant_id, message_id, occurred_at AS burst_at
    FROM events
    WHERE event_type = 'clicked' AND detail LIKE '%"many-links-at-once"%'
),

-- what asks for the picture while the links are followed is what follows them
opens AS (
    SELECT
        opened.tenant_id,
        opened.message_id,
        opened.event_id,
        MAX(opened.open_source) AS open_source,
        MAX(CASE WHEN bursts.burst_at IS NULL THEN 0 ELSE 1 END) AS is_in_burst
    FROM events AS opened
    LEFT JOIN bursts
        ON bursts.tenant_id = opened.tenant_id
        AND bursts.message_id = opened.message_id
        AND abs(date_part('epoch', bursts.burst_at) - date_part('epoch', opened.occurred_at)) <= 10
    WHERE opened.event_type = 'opened' AND opened.message_id IS NOT NULL
    GROUP BY opened.tenant_id, opened.message_id, opened.event_id
),

clicks AS (
    SELECT
        clicked.tenant_id,
        clicked.message_id,
        clicked.event_id,
        MAX(clicked.open_source) AS open_source,
        MAX(CASE WHEN bursts.burst_at IS NULL THEN 0 ELSE 1 END) AS is_in_burst
    FROM events AS clicked
    LEFT JOIN bursts
        ON bursts.tenant_id = clicked.tenant_id
        AND bursts.message_id = clicked.message_id
        AND bursts.burst_at >= clicked.occurred_at
        AND date_part('epoch', bursts.burst_at) - date_part('epoch', clicked.occurred_at) <= 10
    WHERE clicked.event_type = 'clicked' AND clicked.message_id IS NOT NULL
    GROUP BY clicked.tenant_id, clicked.message_id, clicked.event_id
),

answers AS (
    SELECT
        tenant_id,
        message_id,
        CASE WHEN is_in_burst = 0 AND open_source IN ('direct', 'proxied') THEN 1 ELSE 0 END AS person_opened,
        CASE WHEN is_in_burst = 1 OR open_source IN ('prefetched', 'scanner') THEN 1 ELSE 0 END AS machine_opened,
        1 AS opened,
        0 AS person_clicked,
        0 AS machine_clicked,
        0 AS clicked,
        0 AS unsubscribed
    FROM opens
    UNION ALL
    SELECT
        tenant_id,
        message_id,
        0 AS person_opened,
        0 AS machine_opened,
        0 AS opened,
        0 AS person_clicked,
        0 AS machine_clicked,
        0 AS clicked,
        1 AS unsubscribed
    FROM events
    WHERE event_type = 'unsubscribed' AND message_id IS NOT NULL
    UNION ALL
    SELECT
        tenant_id,
        message_id,
        0 AS person_opened,
        0 AS machine_opened,
        0 AS opened,
        CASE WHEN is_in_burst = 0 AND open_source IN ('direct', 'proxied') THEN 1 ELSE 0 END AS person_clicked,
        CASE WHEN is_in_burst = 1 OR open_source IN ('prefetched', 'scanner') THEN 1 ELSE 0 END AS machine_clicked,
        1 AS clicked,
        0 AS unsubscribed
    FROM clicks
),

answered AS (
    SELECT
        tenant_id,
        message_id,
        MAX(person_opened) AS person_opened,
        MAX(machine_opened) AS machine_opened,
        MAX(opened) AS opened,
        MAX(person_clicked) AS person_clicked,
        MAX(machine_clicked) AS machine_clicked,
        MAX(clicked) AS clicked,
        MAX(unsubscribed) AS unsubscribed
    FROM answers
    GROUP BY tenant_id, message_id
),

counted AS (
    SELECT
        delivered.tenant_id,
        delivered.stream,
        delivered.campaign_id,
        delivered.sending_domain,
        delivered.provider,
        delivered.delivery_day,
        COUNT(*) AS delivered,
        SUM(delivered.tracks_opens) AS delivered_with_opens,
        SUM(delivered.tracks_clicks) AS delivered_with_clicks,
        SUM(COALESCE(answered.person_opened, 0)) AS opened_by_people,
        SUM(CASE WHEN answered.machine_opened = 1 AND answered.person_opened = 0 THEN 1 ELSE 0 END)
            AS opened_by_machines,
        SUM(CASE WHEN answered.opened = 1 AND answered.person_opened = 0 AND answered.machine_opened = 0 THEN 1 ELSE 0 END)
            AS opened_by_unknown,
        SUM(COALESCE(answered.person_clicked, 0)) AS clicked_by_people,
        SUM(CASE WHEN answered.machine_clicked = 1 AND answered.person_clicked = 0 THEN 1 ELSE 0 END)
            AS clicked_by_machines,
        SUM(CASE WHEN answered.clicked = 1 AND answered.person_clicked = 0 AND answered.machine_clicked = 0 THEN 1 ELSE 0 END)
            AS clicked_by_unknown,
        SUM(COALESCE(answered.unsubscribed, 0)) AS unsubscribed
    FROM delivered
    LEFT JOIN answered
        ON answered.tenant_id = delivered.tenant_id
        AND answered.message_id = delivered.message_id
    GROUP BY
        delivered.tenant_id,
        delivered.stream,
        delivered.campaign_id,
        delivered.sending_domain,
        delivered.provider,
        delivered.delivery_day
)

SELECT
    tenant_id,
    stream,
    campaign_id,
    sending_domain,
    provider,
    delivery_day AS day,
    CAST(delivered AS BIGINT) AS delivered,
    CAST(delivered_with_opens AS BIGINT) AS delivered_with_opens,
    CAST(delivered_with_clicks AS BIGINT) AS delivered_with_clicks,
    CAST(opened_by_people AS BIGINT) AS opened_by_people,
    CAST(opened_by_machines AS BIGINT) AS opened_by_machines,
    CAST(opened_by_unknown AS BIGINT) AS opened_by_unknown,
    CAST(clicked_by_people AS BIGINT) AS clicked_by_people,
    CAST(clicked_by_machines AS BIGINT) AS clicked_by_machines,
    CAST(clicked_by_unknown AS BIGINT) AS clicked_by_unknown,
    CAST(unsubscribed AS BIGINT) AS unsubscribed,
    CASE WHEN delivered_with_opens > 0
        THEN CAST(opened_by_people AS DOUBLE) / CAST(delivered_with_opens AS DOUBLE) END AS open_rate,
    CASE WHEN delivered_with_clicks > 0
        THEN CAST(clicked_by_people AS DOUBLE) / CAST(delivered_with_clicks AS DOUBLE) END AS click_rate,
    CAST(unsubscribed AS DOUBLE) / CAST(delivered AS DOUBLE) AS unsubscribe_rate
FROM counted
