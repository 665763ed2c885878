-- A message with a story to tell: delivered after as many attempts as any.
SELECT message_id
FROM outcomes
WHERE outcome = 'delivered'
ORDER BY attempts DESC, time_to_terminal_ms DESC, message_id
LIMIT 1
