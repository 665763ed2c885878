-- What came back for each reader of the first newsletter, what it put on the list, and what became of the next mail.
WITH came AS (
    SELECT
        message_id,
        event_type,
        recorded_at,
        coalesce(
            bounce_reason,
            feedback_type,
            CASE
                WHEN event_type = 'replied' THEN 'auto_reply'
                WHEN detail LIKE '%"by":"one_click"%' THEN 'one_click'
                WHEN detail LIKE '%"by":"mailto"%' THEN 'mailto'
            END
        ) AS read_as,
        bounce_rule
    FROM events
    WHERE tenant_id = 'harbour' AND event_type IN ('bounced_async', 'complained', 'unsubscribed', 'replied')
),

listed AS (
    SELECT
        message_id,
        recorded_at,
        CASE
            WHEN detail LIKE '%"reason":"unsubscribe"%' THEN 'unsubscribe'
            WHEN detail LIKE '%"reason":"complaint"%' THEN 'complaint'
            WHEN detail LIKE '%"reason":"hard_bounce"%' THEN 'hard_bounce'
        END AS reason
    FROM events
    WHERE tenant_id = 'harbour' AND event_type = 'suppression_added'
),

sent AS (
    SELECT recipient, campaign_id, message_id, outcome
    FROM outcomes
    WHERE tenant_id = 'harbour'
)

SELECT
    letter.recipient,
    came.event_type AS came_back,
    came.read_as,
    came.bounce_rule,
    listed.reason AS suppressed_as,
    CAST((date_part('epoch', listed.recorded_at) - date_part('epoch', came.recorded_at)) * 1000 AS BIGINT) AS after_ms,
    next_letter.outcome AS next_newsletter,
    receipt.outcome AS receipt
FROM sent AS letter
LEFT JOIN came ON came.message_id = letter.message_id
LEFT JOIN listed ON listed.message_id = letter.message_id
LEFT JOIN sent AS next_letter
    ON next_letter.recipient = letter.recipient AND next_letter.campaign_id = 'winter-letter'
LEFT JOIN sent AS receipt ON receipt.recipient = letter.recipient AND receipt.campaign_id = 'receipt'
WHERE letter.campaign_id = 'autumn-letter'
ORDER BY letter.recipient
