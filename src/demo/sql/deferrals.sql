-- Why mail had to wait: the temporary refusals that receivers gave, most frequent first.
SELECT provider, smtp_command, reply_code, enhanced_status, count(*) AS deferrals, min(substr(reply_text, 1, 60)) AS for_instance
FROM attempts
WHERE event_type = 'deferred'
GROUP BY provider, smtp_command, reply_code, enhanced_status
ORDER BY deferrals DESC
LIMIT 8
