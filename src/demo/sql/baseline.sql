-- The baseline that the campaign was compared with.
SELECT MAX(baseline_rate) AS baseline_rate
FROM complaint_baseline
WHERE tenant_id = 'acme' AND stream = 'marketing' AND provider = 'yahoo-like' AND age_h = 24
