-- Reviews that wait for somebody.
SELECT tenant_id, stream, sending_domain, state, since
FROM reviews
WHERE state = 'open'
