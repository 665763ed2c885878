-- The cut: what the sender obeys for acme's marketing.
SELECT provider, state, limit_messages AS messages_a_day, as_of AS judged_at
FROM published_quotas
WHERE tenant_id = 'acme' AND stream = 'marketing' AND state IN ('throttled', 'paused')
ORDER BY provider
