-- bounce_categories
-- What: how many messages ended how, day by day: delivered, and bounced by category and by class.
-- Grain: as_of × tenant × stream × sending domain × provider × day (UTC day of the attempt that ended it; a later
--   DSN counts on the day of the delivery that it answers).
-- Consumer: the console's bounce page, demo, whoever asks which provider refuses what.
-- Cost: one scan of events, hashed by grain. Filter by tenant_id and provider to read less.
-- Notes: only facts recorded by as_of. attempted is delivered + bounced in the session + expired. Full and disabled
--   mailboxes are outside hard_bounces and its rate: they say nothing of where the addresses came from.
WITH facts AS (
    SELECT
        tenant_id,
        COALESCE(stream, 'transactional') AS stream,
        COALESCE(dkim_domain, header_from_domain, '(unknown)') AS sending_domain,
        COALESCE(provider, '(unknown)') AS provider,
        CAST(COALESCE(delivered_at, occurred_at) AS DATE) AS day,
        event_type,
        COALESCE(
            bounce_category, CASE WHEN event_type = 'expired' THEN 'transient_network' ELSE 'unclassified' END
        ) AS category,
        COALESCE(bounce_class, CASE WHEN event_type = 'expired' THEN 'soft' ELSE 'unclassified' END) AS class,
        COALESCE(bounce_reason, '') AS reason,
        CASE WHEN event_type = 'delivered' THEN 0 ELSE 1 END AS is_bounce,
        recorded_at
    FROM events
    WHERE event_type IN ('delivered', 'bounced', 'expired', 'bounced_async')
),

counted AS (
    SELECT
        clock.as_of,
        tenant_id,
        stream,
        sending_domain,
        provider,
        day,
        SUM(CASE WHEN event_type <> 'bounced_async' THEN 1 ELSE 0 END) AS attempted,
        SUM(CASE WHEN event_type = 'delivered' THEN 1 ELSE 0 END) AS delivered,
        SUM(is_bounce) AS bounced,
        SUM(CASE WHEN event_type = 'bounced_async' THEN 1 ELSE 0 END) AS bounced_async,
        SUM(CASE WHEN is_bounce = 1 AND category = 'bad_mailbox' THEN 1 ELSE 0 END) AS bad_mailbox,
        SUM(CASE WHEN is_bounce = 1 AND category = 'policy_block' THEN 1 ELSE 0 END) AS policy_block,
        SUM(CASE WHEN is_bounce = 1 AND category = 'content_block' THEN 1 ELSE 0 END) AS content_block,
        SUM(CASE WHEN is_bounce = 1 AND category = 'reputation_block' THEN 1 ELSE 0 END) AS reputation_block,
        SUM(CASE WHEN is_bounce = 1 AND category = 'throttling' THEN 1 ELSE 0 END) AS throttling,
        SUM(CASE WHEN is_bounce = 1 AND category = 'transient_network' THEN 1 ELSE 0 END) AS transient_network,
        SUM(CASE WHEN is_bounce = 1 AND category = 'unclassified' THEN 1 ELSE 0 END) AS unclassified,
        SUM(CASE WHEN is_bounce = 1 AND class = 'hard' THEN 1 ELSE 0 END) AS hard,
        SUM(CASE WHEN is_bounce = 1 AND class = 'soft' THEN 1 ELSE 0 END) AS soft,
        SUM(CASE WHEN is_bounce = 1 AND class = 'block' THEN 1 ELSE 0 END) AS blocked,
        SUM(
            CASE
                WHEN is_bounce = 1 AND class = 'hard'
                    AND reason NOT IN ('mailbox_full', 'mailbox_disabled')
                THEN 1 ELSE 0
            END
        ) AS hard_bounces
    FROM as_of AS clock
    CROSS JOIN facts
    WHERE facts.recorded_at <= clock.as_of
    GROUP BY clock.as_of, tenant_id, stream, sending_domain, provider, day
)

SELECT
    as_of,
    tenant_id,
    stream,
    sending_domain,
    provider,
    day,
    CAST(attempted AS BIGINT) AS attempted,
    CAST(delivered AS BIGINT) AS delivered,
    CAST(bounced AS BIGINT) AS bounced,
    CAST(bounced_async AS BIGINT) AS bounced_async,
    CAST(bad_mailbox AS BIGINT) AS bad_mailbox,
    CAST(policy_block AS BIGINT) AS policy_block,
    CAST(content_block AS BIGINT) AS content_block,
    CAST(reputation_block AS BIGINT) AS reputation_block,
    CAST(throttling AS BIGINT) AS throttling,
    CAST(transient_network AS BIGINT) AS transient_network,
    CAST(unclassified AS BIGINT) AS unclassified,
    CAST(hard AS BIGINT) AS hard,
    CAST(soft AS BIGINT) AS soft,
    CAST(blocked AS BIGINT) AS blocked,
    CAST(hard_bounces AS BIGINT) AS hard_bounces,
    CASE WHEN attempted > 0 THEN CAST(hard_bounces AS DOUBLE) / attempted END AS hard_bounce_rate
FROM counted
