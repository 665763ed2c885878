-- tls_sessions
-- What: how TLS went in the sessions of this installation with the MX hosts of each recipient domain: the other half of
--   tls_reports, and what its own TLS reports (RFC 8460) are made of.
-- Grain: event_date (UTC) × recipient_domain × mx_host × mx_ip × source_ip × result. result is 'successful', or what RFC 8460,
--   section 4.3, calls the failure: 'starttls-not-supported', 'validation-failure', …
-- Consumer: `sendlake tls-report`; whoever asks which receivers still take mail in the clear.
-- Cost: one scan of events. Filter by event_date to read less.
-- Notes: a session counts once for each domain that it carried mail for, and on each day that it did. A certificate that does
--   not verify is no failure where no policy asks for one. Connections that never came to EHLO are neither. Left out are mail
--   by static routes, whose hosts are not the recipient domain's, mail that others sent, and TLS reports themselves (RFC 8460,
--   section 3): two installations would otherwise report on each other's reports for ever. Sessions of before 'session_id' was
--   told are left out: nobody knows how many they were.
WITH sessions AS (
    SELECT
        event_date,
        recipient_domain,
        mx_host,
        mx_ip,
        source_ip,
        session_id,
        CASE
            WHEN tls_version IS NOT NULL THEN 'successful'
            WHEN detail LIKE '%"tls_failure":"starttls-not-supported"%' THEN 'starttls-not-supported'
            WHEN detail LIKE '%"tls_failure":"certificate-host-mismatch"%' THEN 'certificate-host-mismatch'
            WHEN detail LIKE '%"tls_failure":"certificate-expired"%' THEN 'certificate-expired'
            WHEN detail LIKE '%"tls_failure":"certificate-not-trusted"%' THEN 'certificate-not-trusted'
            WHEN detail LIKE '%"tls_failure":"validation-failure"%' THEN 'validation-failure'
        END AS result
    FROM events
    WHERE event_type IN ('delivered', 'deferred', 'bounced', 'attempt_in_doubt')
        AND session_id IS NOT NULL
        AND recipient_domain IS NOT NULL
        AND COALESCE(site, '') NOT LIKE 'route:%'
        AND COALESCE(ip_pool, '') NOT LIKE 'elsewhere:%'
        AND COALESCE(campaign_id, '') <> 'tls-report'
)

SELECT
    event_date,
    recipient_domain,
    mx_host,
    mx_ip,
    source_ip,
    result,
    COUNT(DISTINCT session_id) AS sessions
FROM sessions
WHERE result IS NOT NULL
GROUP BY event_date, recipient_domain, mx_host, mx_ip, source_ip, result
