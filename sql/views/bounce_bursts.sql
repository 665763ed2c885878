-- bounce_bursts
-- What: how many recipients a provider called unknown in the last hour, against its own last seven days and against
--   everybody else's last hour; is_burst where that is more likely a fault of the provider's than of the lists.
-- Grain: as_of × provider that answered in the hour before.
-- Consumer: the server, which takes the suppressions of a burst off the list until a person has decided (`sendlake
--   review bursts`).
-- Cost: one scan of events, folded by provider and hour. Reads nothing older than eight days.
-- Notes: an answer is a delivery or a final refusal; unknown is a refusal of class hard and category bad_mailbox with
--   reason unknown_user. A burst has at least 20 of them, at a tenth of the answers and ten times the provider's usual
--   share, which is smoothed by one in fifty. With fewer than 100 answers in the week nothing is usual, and nothing is a
--   burst: a new list is as likely. Nor when the others' share in the same hour is a third of it or more, of at least 20
--   answers: then it is a list that is bad everywhere.
WITH answers AS (
    SELECT
        COALESCE(provider, '(unknown)') AS provider,
        date_part('epoch', occurred_at) AS occurred_s,
        date_part('epoch', recorded_at) AS recorded_s,
        CASE
            WHEN event_type IN ('bounced', 'bounced_async') AND bounce_category = 'bad_mailbox'
                AND bounce_class = 'hard' AND COALESCE(bounce_reason, '') = 'unknown_user'
            THEN 1 ELSE 0
        END AS is_unknown,
        -- a DSN comes after the delivery that it takes back, which was counted
        CASE WHEN event_type = 'bounced_async' THEN 0 ELSE 1 END AS is_answer
    FROM events
    WHERE event_type IN ('delivered', 'bounced', 'bounced_async')
),

counted AS (
    SELECT
        clock.as_of,
        provider,
        SUM(CASE WHEN occurred_s > clock.as_of_s - 3600 THEN is_answer ELSE 0 END) AS answers,
        SUM(CASE WHEN occurred_s > clock.as_of_s - 3600 THEN is_unknown ELSE 0 END) AS unknown_users,
        SUM(CASE WHEN occurred_s <= clock.as_of_s - 3600 THEN is_answer ELSE 0 END) AS usual_answers,
        SUM(CASE WHEN occurred_s <= clock.as_of_s - 3600 THEN is_unknown ELSE 0 END) AS usual_unknown_users
    FROM (SELECT as_of, date_part('epoch', as_of) AS as_of_s FROM as_of) AS clock
    CROSS JOIN answers
    WHERE recorded_s <= clock.as_of_s
        AND occurred_s <= clock.as_of_s
        AND occurred_s > clock.as_of_s - 3600 - 7 * 86400
    GROUP BY clock.as_of, clock.as_of_s, provider
),

compared AS (
    SELECT
        counted.*,
        CASE
            WHEN usual_answers >= 100 THEN (usual_unknown_users + 1.0) / (usual_answers + 50.0)
        END AS usual_rate,
        SUM(answers) OVER (PARTITION BY as_of) - answers AS other_answers,
        SUM(unknown_users) OVER (PARTITION BY as_of) - unknown_users AS other_unknown_users
    FROM counted
)

SELECT
    as_of,
    provider,
    CAST(answers AS BIGINT) AS answers,
    CAST(unknown_users AS BIGINT) AS unknown_users,
    CAST(usual_answers AS BIGINT) AS usual_answers,
    CAST(usual_unknown_users AS BIGINT) AS usual_unknown_users,
    usual_rate,
    CAST(other_answers AS BIGINT) AS other_answers,
    CAST(other_unknown_users AS BIGINT) AS other_unknown_users,
    COALESCE(
        unknown_users >= 20
        AND unknown_users * 10 >= GREATEST(answers, unknown_users)
        AND unknown_users >= 10 * usual_rate * GREATEST(answers, unknown_users)
        AND NOT (
            other_answers >= 20
            AND 3 * other_unknown_users * GREATEST(answers, unknown_users) >= unknown_users * other_answers
        ),
        FALSE
    ) AS is_burst
FROM compared
WHERE answers > 0 OR unknown_users > 0
