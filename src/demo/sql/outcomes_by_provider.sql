-- What became of the demo's messages: one row per provider, outcome and last reply code.
SELECT
    provider,
    outcome,
    reply_code,
    count(*) AS messages,
    round(avg(attempts), 1) AS attempts_avg,
    min(substr(reply_text, 1, 60)) AS for_instance
FROM outcomes
WHERE outcome <> 'rejected'
GROUP BY provider, outcome, reply_code
ORDER BY provider, messages DESC, reply_code
