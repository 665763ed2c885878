-- How far the new domain has come: delivered and held so far, and the ceiling in force for its providers, pooled.
SELECT
    (SELECT count(*) FROM outcomes
        WHERE tenant_id = 'initech' AND outcome = 'delivered') AS delivered,
    (SELECT count(*) FROM outcomes
        WHERE tenant_id = 'initech' AND outcome = 'queued') AS held,
    (SELECT max(reason) FROM published_quotas
        WHERE tenant_id = 'initech' AND provider = '(others)' AND state = 'warming') AS reason
