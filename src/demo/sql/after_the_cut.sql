-- What became of acme's mail that was handed over after the cut, by stream and recipients' domain.
WITH cut AS (
    SELECT MIN(occurred_at) AS cut_at
    FROM events
    WHERE tenant_id = 'acme' AND event_type = 'quota_changed' AND policy_id = 'complaint_pacing'
)

SELECT
    stream,
    recipient_domain,
    count(*) AS messages,
    SUM(CASE WHEN outcome = 'delivered' THEN 1 ELSE 0 END) AS delivered,
    SUM(CASE WHEN outcome = 'bounced' THEN 1 ELSE 0 END) AS bounced,
    SUM(CASE WHEN outcome = 'queued' THEN 1 ELSE 0 END) AS held
FROM outcomes CROSS JOIN cut
WHERE tenant_id = 'acme' AND accepted_at >= cut_at
GROUP BY stream, recipient_domain
ORDER BY stream, recipient_domain
