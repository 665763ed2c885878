-- The deliveries that took longest, from acceptance to the receiver's 250.
SELECT message_id, recipient, provider, attempts, time_to_terminal_ms AS ms
FROM outcomes
WHERE outcome = 'delivered'
ORDER BY time_to_terminal_ms DESC, message_id
LIMIT 5
