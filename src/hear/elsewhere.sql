-- elsewhere
-- What: the deliveries that another sender's feedback answers, as far as its own events tell of them.
-- Grain: one row per message.
-- Consumer: src/hear/elsewhere.rs, which puts in the tenant, the ids, and the days between which they may have left.
-- Cost: the events of those days whose bloom filters know one of the ids.
SELECT
    message_id,
    max(stream) AS stream,
    max(campaign_id) AS campaign_id,
    max(header_from_domain) AS header_from_domain,
    max(mail_from_domain) AS mail_from_domain,
    coalesce(max(provider) FILTER (WHERE event_type = 'delivered'), max(provider)) AS provider,
    max(source_ip) AS source_ip,
    CAST(max(occurred_at) FILTER (WHERE event_type = 'delivered') AS BIGINT) AS delivered_at
FROM events
WHERE tenant_id = '{tenant}'
    AND message_id IN ({message_ids})
    AND event_date >= DATE '{since}'
    AND event_date <= DATE '{until}'
    AND ip_pool LIKE 'elsewhere:%'
GROUP BY message_id
