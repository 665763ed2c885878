-- attempts
-- What: every attempt to deliver a message, with the server's reply.
-- Grain: one row per delivery attempt of one message (tenant_id, message_id, seq). A bounce without a
--   reply (given up by rule) is no attempt and is left out; an attempt whose reply a crash hid is in.
-- Consumer: outcomes; whoever asks why a provider defers or bounces.
-- Cost: one scan of events, no sort. Filter by event_date to read less.
SELECT
    tenant_id,
    message_id,
    submission_id,
    seq,
    attempt,
    event_type,
    occurred_at,
    recorded_at,
    event_date,
    stream,
    campaign_id,
    recipient,
    recipient_domain,
    provider,
    header_from_domain,
    mail_from_domain,
    ip_pool,
    source_ip,
    site,
    mx_host,
    mx_ip,
    tls_version,
    tls_verified,
    smtp_command,
    reply_code,
    enhanced_status,
    reply_text,
    bounce_category,
    bounce_reason,
    bounce_class,
    queue_ms,
    connect_ms,
    attempt_ms,
    next_attempt_at,
    event_id
FROM events
WHERE event_type IN ('delivered', 'deferred', 'attempt_in_doubt')
    OR (event_type = 'bounced' AND reply_code IS NOT NULL)
