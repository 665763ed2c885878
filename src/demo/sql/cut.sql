-- The cut: what the sender obeys for acme's marketing, and why.
SELECT provider, state, limit_messages, reason
FROM published_quotas
WHERE tenant_id = 'acme' AND stream = 'marketing' AND state IN ('throttled', 'paused')
ORDER BY provider
