-- The ceiling in force for the new domain's newsletter, at its providers together.
SELECT limit_messages, reason
FROM published_quotas
WHERE tenant_id = 'initech' AND stream = 'marketing' AND provider = '(others)' AND state = 'warming'
