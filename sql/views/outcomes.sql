-- outcomes
-- What: what became of each message so far.
-- Grain: one row per message (tenant_id, message_id). A submission refused before it had a message_id
--   is only in events.
-- Consumer: the console, message counts by provider, exports.
-- Cost: one scan of events and one sort by message. Filter by tenant_id and message_id to read less; a
--   filter on other columns is applied after the sort.
-- Notes: outcome is the last terminal event by seq (then recorded_at, event_id), else 'queued'. Feedback
--   (a later DSN, a complaint, a click) does not change it. The reply is that of the last attempt.
--   date_part('epoch', x) is seconds with a fraction in DataFusion, DuckDB and PostgreSQL; Spark has no
--   such part and wants unix_micros(x) / 1000000.0 in its place.
WITH lifecycle AS (
    SELECT
        events.*,
        CASE
            WHEN event_type IN ('delivered', 'bounced', 'expired', 'cancelled', 'suppressed', 'rejected')
            THEN 1 ELSE 0
        END AS is_terminal,
        CASE
            WHEN event_type IN ('delivered', 'deferred', 'attempt_in_doubt')
                OR (event_type = 'bounced' AND reply_code IS NOT NULL)
            THEN 1 ELSE 0
        END AS is_attempt
    FROM events
    WHERE message_id IS NOT NULL
        AND event_type IN (
            'accepted', 'rejected', 'suppressed', 'held', 'released', 'delivered', 'deferred', 'bounced',
            'expired', 'cancelled', 'attempt_in_doubt'
        )
),

-- Counted from the newest event back: the first of each kind is the one that speaks for the message.
ranked AS (
    SELECT
        lifecycle.*,
        SUM(is_terminal) OVER (
            PARTITION BY tenant_id, message_id
            ORDER BY seq DESC NULLS LAST, recorded_at DESC, event_id DESC
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS terminals_since,
        SUM(is_attempt) OVER (
            PARTITION BY tenant_id, message_id
            ORDER BY seq DESC NULLS LAST, recorded_at DESC, event_id DESC
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS attempts_since
    FROM lifecycle
),

speaking AS (
    SELECT
        ranked.*,
        CASE WHEN is_terminal = 1 AND terminals_since = 1 THEN 1 ELSE 0 END AS is_last_terminal,
        CASE WHEN is_attempt = 1 AND attempts_since = 1 THEN 1 ELSE 0 END AS is_last_attempt
    FROM ranked
),

messages AS (
    SELECT
        tenant_id,
        message_id,
        MAX(submission_id) AS submission_id,
        COALESCE(MAX(CASE WHEN is_last_terminal = 1 THEN event_type END), 'queued') AS outcome,
        MAX(stream) AS stream,
        MAX(campaign_id) AS campaign_id,
        MAX(recipient) AS recipient,
        MAX(recipient_domain) AS recipient_domain,
        COALESCE(MAX(CASE WHEN is_last_attempt = 1 THEN provider END), MAX(provider)) AS provider,
        MIN(occurred_at) AS first_at,
        MAX(occurred_at) AS last_at,
        MIN(CASE WHEN event_type = 'accepted' THEN occurred_at END) AS accepted_at,
        MAX(CASE WHEN is_last_terminal = 1 THEN occurred_at END) AS terminal_at,
        CAST(SUM(is_attempt) AS BIGINT) AS attempts,
        MAX(CASE WHEN is_last_attempt = 1 THEN mx_host END) AS mx_host,
        MAX(CASE WHEN is_last_attempt = 1 THEN smtp_command END) AS smtp_command,
        MAX(CASE WHEN is_last_attempt = 1 THEN reply_code END) AS reply_code,
        MAX(CASE WHEN is_last_attempt = 1 THEN enhanced_status END) AS enhanced_status,
        MAX(CASE WHEN is_last_attempt = 1 THEN reply_text END) AS reply_text,
        MAX(CASE WHEN is_last_terminal = 1 THEN bounce_category END) AS bounce_category,
        MAX(CASE WHEN is_last_terminal = 1 THEN bounce_reason END) AS bounce_reason
    FROM speaking
    GROUP BY tenant_id, message_id
)

SELECT
    messages.*,
    CAST(
        ROUND((date_part('epoch', terminal_at) - date_part('epoch', accepted_at)) * 1000) AS BIGINT
    ) AS time_to_terminal_ms
FROM messages
