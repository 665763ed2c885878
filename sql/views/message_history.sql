-- message_history
-- What: every event of a message, in order, with the columns that a person wants to see.
-- Grain: one row per event that has a message_id. step counts from 1 within the message: the accepting
--   node's events by seq, then feedback (which has no seq) as it was learned of.
-- Consumer: `sendlake message`, the console's message page, support.
-- Cost: one scan of events and one sort by message; with message_id = '…' only that message is sorted.
-- Notes: an engine may drop the ORDER BY of a view: order by step when it matters.
SELECT
    tenant_id,
    message_id,
    ROW_NUMBER() OVER (
        PARTITION BY tenant_id, message_id
        ORDER BY seq ASC NULLS LAST, recorded_at ASC, event_id ASC
    ) AS step,
    occurred_at,
    recorded_at,
    event_type,
    attempt,
    recipient,
    provider,
    mx_host,
    source_ip,
    tls_version,
    smtp_command,
    reply_code,
    enhanced_status,
    reply_text,
    queue_ms,
    attempt_ms,
    next_attempt_at,
    hold_reason,
    bounce_category,
    bounce_reason,
    feedback_type,
    reported_by,
    url,
    detail,
    seq,
    event_id
FROM events
WHERE message_id IS NOT NULL
ORDER BY tenant_id, message_id, step
