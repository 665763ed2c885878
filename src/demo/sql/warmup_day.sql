-- How far the new domain has come.
SELECT
    SUM(CASE WHEN outcome = 'delivered' THEN 1 ELSE 0 END) AS delivered,
    SUM(CASE WHEN outcome = 'bounced' THEN 1 ELSE 0 END) AS refused,
    SUM(CASE WHEN outcome = 'queued' THEN 1 ELSE 0 END) AS waiting
FROM outcomes
WHERE tenant_id = 'initech'
