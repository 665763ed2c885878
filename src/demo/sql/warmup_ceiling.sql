-- The ceiling in force for the new domain, at its providers pooled.
SELECT reason
FROM published_quotas
WHERE tenant_id = 'initech' AND provider = '(others)' AND state = 'warming'
