-- bounces
-- What: every final refusal, with what it means: refused in the session, given up when the lifetime was over, or
--   told later by a DSN.
-- Grain: one row per event that ends a delivery badly (event_id). A message that was delivered and then bounced
--   has one row here and its `delivered` event; delivered_at says when that was.
-- Consumer: bounce_categories; whoever asks which rule decided, and on which words.
-- Cost: one scan of events, no sort. Filter by event_date to read less.
-- Notes: sending_domain is the registered domain (`d=` of the signature), else that of From. What no rule knew is
--   'unclassified'; a lifetime that ran out is transient_network, soft.
SELECT
    tenant_id,
    message_id,
    submission_id,
    event_type,
    occurred_at,
    recorded_at,
    event_date,
    delivered_at,
    stream,
    campaign_id,
    COALESCE(dkim_domain, header_from_domain) AS sending_domain,
    header_from_domain,
    recipient,
    recipient_domain,
    provider,
    mx_host,
    ip_pool,
    source_ip,
    attempt,
    smtp_command,
    reply_code,
    enhanced_status,
    reply_text,
    COALESCE(
        bounce_category, CASE WHEN event_type = 'expired' THEN 'transient_network' ELSE 'unclassified' END
    ) AS bounce_category,
    COALESCE(bounce_reason, CASE WHEN event_type = 'expired' THEN 'lifetime_over' END) AS bounce_reason,
    COALESCE(bounce_class, CASE WHEN event_type = 'expired' THEN 'soft' END) AS bounce_class,
    bounce_rule,
    ruleset_version,
    reported_by,
    event_id
FROM events
WHERE event_type IN ('bounced', 'expired', 'bounced_async')
