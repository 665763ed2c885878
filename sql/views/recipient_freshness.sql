-- recipient_freshness
-- What: when a tenant last delivered to an address, and whether anything since speaks against it.
-- Grain: as_of × tenant × address in lower case.
-- Consumer: `sendlake list check`, whoever cleans a list.
-- Cost: one scan of events and one group per address: as much memory as there are addresses. Filter by tenant_id, and by
--   recipient_domain to take a part at a time.
-- Notes: freshness is told in days since the last delivery: 0-30, 31-90, 91-365, older; an address without a delivery has
--   no row unless it bounced. gone_at is the last hard bounce of the mailbox; was_gone says that a delivery came after
--   one, as with an address that was given up and taken again by somebody else, a trap's usual past.
SELECT
    clock.as_of,
    tenant_id,
    LOWER(recipient) AS address,
    MIN(recipient_domain) AS recipient_domain,
    MAX(CASE WHEN event_type = 'delivered' THEN occurred_at END) AS delivered_at,
    MAX(
        CASE
            WHEN event_type IN ('bounced', 'bounced_async') AND bounce_category = 'bad_mailbox'
                AND bounce_class = 'hard'
            THEN occurred_at
        END
    ) AS gone_at,
    MIN(
        CASE
            WHEN event_type IN ('bounced', 'bounced_async') AND bounce_category = 'bad_mailbox'
                AND bounce_class = 'hard'
            THEN occurred_at
        END
    ) < MAX(CASE WHEN event_type = 'delivered' THEN occurred_at END) AS was_gone,
    CASE
        WHEN MAX(CASE WHEN event_type = 'delivered' THEN date_part('epoch', occurred_at) END) IS NULL THEN 'never'
        WHEN MAX(CASE WHEN event_type = 'delivered' THEN date_part('epoch', occurred_at) END)
            > clock.as_of_s - 31 * 86400 THEN '0-30'
        WHEN MAX(CASE WHEN event_type = 'delivered' THEN date_part('epoch', occurred_at) END)
            > clock.as_of_s - 91 * 86400 THEN '31-90'
        WHEN MAX(CASE WHEN event_type = 'delivered' THEN date_part('epoch', occurred_at) END)
            > clock.as_of_s - 366 * 86400 THEN '91-365'
        ELSE 'older'
    END AS freshness
FROM (SELECT as_of, date_part('epoch', as_of) AS as_of_s FROM as_of) AS clock
CROSS JOIN events
WHERE event_type IN ('delivered', 'bounced', 'bounced_async')
    AND recipient IS NOT NULL
    AND date_part('epoch', recorded_at) <= clock.as_of_s
GROUP BY clock.as_of, clock.as_of_s, tenant_id, LOWER(recipient)
