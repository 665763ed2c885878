-- Why, where complaints can be seen and where they cannot.
SELECT provider, reason
FROM published_quotas
WHERE tenant_id = 'acme' AND stream = 'marketing' AND state IN ('throttled', 'paused')
    AND provider IN ('yahoo-like', 'gmail-like')
ORDER BY provider DESC
