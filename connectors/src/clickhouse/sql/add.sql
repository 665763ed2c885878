-- The batch's events that are not there, unless the ledger has the batch by now.
INSERT INTO {target} ({names}, load_version)
SELECT {values}, 0
FROM {stage}
WHERE (SELECT count() FROM {ledger} WHERE connector = {connector} AND batch_id = {batch_id}) = 0
  AND event_id NOT IN (SELECT event_id FROM {target} WHERE event_date BETWEEN {first_day} AND {last_day})
LIMIT 1 BY event_id;
