-- reviews
-- What: where somebody has to look: identities that complaint pacing cut, and what was decided about them.
-- Grain: as_of × tenant × stream × sending domain that a review was ever opened or decided for.
-- Consumer: complaint_baseline, quotas, `sendlake review ls`.
-- Cost: one scan of events for quota_changed, which are few.
-- Notes: state is open, approved or stopped; since is when that state began; reason is what the limit said when the
--   review was opened, or what the operator wrote. paused_by_complaints says that the absolute line was crossed since.
WITH steps AS (
    SELECT
        clock.as_of,
        tenant_id,
        stream,
        header_from_domain AS sending_domain,
        provider,
        policy_id,
        recorded_at,
        hold_reason,
        event_id,
        CASE WHEN detail LIKE '%"new_state":"paused"%' THEN 1 ELSE 0 END AS is_pause,
        MAX(CASE WHEN policy_id <> 'complaint_pacing' THEN recorded_at END) OVER (
            PARTITION BY clock.as_of, tenant_id, stream, header_from_domain
        ) AS decided_at
    FROM as_of AS clock
    CROSS JOIN events
    WHERE event_type = 'quota_changed'
        AND policy_id IN ('complaint_pacing', 'review_approved', 'review_stopped')
        AND recorded_at <= clock.as_of
),

ranked AS (
    SELECT
        steps.*,
        CASE WHEN policy_id = 'complaint_pacing' THEN 1 ELSE 0 END AS is_pacing,
        ROW_NUMBER() OVER (
            PARTITION BY as_of, tenant_id, stream, sending_domain,
                CASE WHEN policy_id = 'complaint_pacing' THEN 1 ELSE 0 END
            ORDER BY CASE WHEN policy_id = 'complaint_pacing' AND provider <> '*' THEN 1 ELSE 0 END,
                CASE WHEN policy_id = 'complaint_pacing' THEN recorded_at END ASC NULLS FIRST,
                recorded_at DESC, event_id DESC
        ) AS place
    FROM steps
    -- pacing before the last decision is history
    WHERE policy_id <> 'complaint_pacing' OR decided_at IS NULL OR recorded_at > decided_at
),

folded AS (
    SELECT
        as_of,
        tenant_id,
        stream,
        sending_domain,
        MAX(decided_at) AS decided_at,
        MAX(CASE WHEN is_pacing = 0 AND place = 1 THEN policy_id END) AS decision,
        MAX(CASE WHEN is_pacing = 0 AND place = 1 THEN hold_reason END) AS decision_reason,
        MIN(CASE WHEN is_pacing = 1 THEN recorded_at END) AS opened_at,
        MAX(CASE WHEN is_pacing = 1 AND place = 1 THEN hold_reason END) AS opening_reason,
        MAX(CASE WHEN is_pacing = 1 THEN is_pause ELSE 0 END) AS is_pause
    FROM ranked
    GROUP BY as_of, tenant_id, stream, sending_domain
)

SELECT
    as_of,
    tenant_id,
    stream,
    sending_domain,
    CASE
        WHEN decision = 'review_stopped' THEN 'stopped'
        WHEN opened_at IS NOT NULL THEN 'open'
        ELSE 'approved'
    END AS state,
    CASE
        WHEN decision = 'review_stopped' THEN decided_at ELSE COALESCE(opened_at, decided_at)
    END AS since,
    CASE
        WHEN decision = 'review_stopped' OR opened_at IS NULL THEN decision_reason ELSE opening_reason
    END AS reason,
    CASE WHEN decision = 'review_approved' THEN decided_at END AS approved_at,
    is_pause = 1 AS paused_by_complaints
FROM folded
