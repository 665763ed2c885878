-- What two rulesets make of the same refusals, where they differ. {a} and {b} are their versions, {since} a day.
WITH refusals AS (
    SELECT
        provider,
        reply_text,
        event_type,
        classify_reply(provider, smtp_command, reply_code, enhanced_status, reply_text, '{a}') AS a,
        classify_reply(provider, smtp_command, reply_code, enhanced_status, reply_text, '{b}') AS b
    FROM events
    WHERE event_type IN ('deferred', 'bounced', 'expired', 'bounced_async') AND event_date >= DATE '{since}'
)

SELECT
    COUNT(*) AS events,
    a['rule'] AS from_rule,
    a['category'] AS from_category,
    a['class'] AS from_class,
    a['action'] AS from_action,
    b['rule'] AS to_rule,
    b['category'] AS to_category,
    b['class'] AS to_class,
    b['action'] AS to_action,
    COUNT(DISTINCT provider) AS providers,
    MIN(reply_text) AS example
FROM refusals
WHERE
    a['rule'] <> b['rule']
    OR a['category'] <> b['category']
    OR a['reason'] <> b['reason']
    OR a['class'] <> b['class']
    OR a['action'] <> b['action']
GROUP BY
    a['rule'], a['category'], a['class'], a['action'],
    b['rule'], b['category'], b['class'], b['action']
ORDER BY events DESC, from_rule, to_rule
