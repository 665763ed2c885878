-- delivery
-- What: whose the messages were that feedback names, how they left, and when they were delivered.
-- Grain: one row per message.
-- Consumer: src/hear/delivery.rs, which puts in the ids and the day before the oldest of them was made.
-- Cost: the events since that day whose bloom filters know one of the ids. seq keeps feedback out.
SELECT
    message_id,
    max(tenant_id) AS tenant_id,
    max(submission_id) AS submission_id,
    max(stream) AS stream,
    max(campaign_id) AS campaign_id,
    max(content_fingerprint) AS content_fingerprint,
    max(recipient) AS recipient,
    max(recipient_domain) AS recipient_domain,
    coalesce(max(provider) FILTER (WHERE event_type = 'delivered'), max(provider)) AS provider,
    max(header_from_domain) AS header_from_domain,
    max(mail_from_domain) AS mail_from_domain,
    max(dkim_domain) AS dkim_domain,
    max(dkim_selector) AS dkim_selector,
    max(ip_pool) AS ip_pool,
    coalesce(max(source_ip) FILTER (WHERE event_type = 'delivered'), max(source_ip)) AS source_ip,
    CAST(max(occurred_at) FILTER (WHERE event_type = 'delivered') AS BIGINT) AS delivered_at
FROM events
WHERE message_id IN ({message_ids}) AND event_date >= DATE '{since}' AND seq IS NOT NULL
GROUP BY message_id
