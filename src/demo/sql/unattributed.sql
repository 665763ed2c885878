-- Reports that name no message of ours: kept, for the tenant whose address they came to, and nobody is suppressed.
SELECT event_type, feedback_type, message_id, recipient, detail
FROM events
WHERE tenant_id = 'harbour' AND event_type IN ('complained', 'bounced_async') AND message_id IS NULL
