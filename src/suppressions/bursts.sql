-- bursts
-- What: the bounces of one provider's burst.
-- Grain: one row per event.
-- Consumer: src/suppressions/bursts.rs, which puts in the provider, the instant in microseconds, and its day.
-- Cost: the events since that day.
SELECT tenant_id, recipient, event_id
FROM events
WHERE event_type IN ('bounced', 'bounced_async')
    AND COALESCE(provider, '(unknown)') = '{provider}'
    AND bounce_category = 'bad_mailbox' AND bounce_class = 'hard' AND bounce_reason = 'unknown_user'
    AND recipient IS NOT NULL
    AND event_date >= DATE '{day}'
    AND CAST(occurred_at AS BIGINT) > {since_us}
