-- The warm-up of the new domain, as it stands.
SELECT provider, good_deliveries, stage, stages, daily_limit, graduated
FROM warmup_ceiling
WHERE tenant_id = 'initech' AND good_deliveries > 0
ORDER BY provider
