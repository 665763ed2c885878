-- retracted_complaints
-- What: complaints that were taken back: the recipient of the same message said afterwards that it was no spam.
-- Grain: one row per complaint.
-- Consumer: complaint_baseline, warmup_ceiling and provider_calibration, which do not count these from retracted_at on.
-- Cost: two scans of events (complained; replied with feedback_type not-spam), joined by message. Both are few.
-- Notes: only a report about that very message retracts, and only one that came later. A not-spam report about a message that
--   nobody complained about retracts nothing, so no count falls below zero. event_type 'complained' keeps the complaint.
SELECT
    complaints.event_id,
    complaints.tenant_id,
    complaints.message_id,
    complaints.stream,
    complaints.campaign_id,
    complaints.header_from_domain,
    complaints.dkim_domain,
    complaints.provider,
    complaints.source_ip,
    complaints.ip_pool,
    complaints.feedback_type,
    complaints.delivered_at,
    complaints.occurred_at,
    complaints.recorded_at,
    MIN(regrets.recorded_at) AS retracted_at
FROM events AS complaints
INNER JOIN events AS regrets
    ON regrets.tenant_id = complaints.tenant_id
    AND regrets.message_id = complaints.message_id
WHERE complaints.event_type = 'complained'
    AND regrets.event_type = 'replied'
    AND regrets.feedback_type = 'not-spam'
    AND regrets.recorded_at >= complaints.recorded_at
GROUP BY
    complaints.event_id,
    complaints.tenant_id,
    complaints.message_id,
    complaints.stream,
    complaints.campaign_id,
    complaints.header_from_domain,
    complaints.dkim_domain,
    complaints.provider,
    complaints.source_ip,
    complaints.ip_pool,
    complaints.feedback_type,
    complaints.delivered_at,
    complaints.occurred_at,
    complaints.recorded_at
