-- Newer versions first; `outdate.sql` then takes the older ones away.
INSERT INTO {target} ({names}, load_version)
SELECT {values}, {version}
FROM {stage}
WHERE (SELECT count() FROM {ledger} WHERE connector = {connector} AND batch_id = {batch_id}) = 0
LIMIT 1 BY event_id;
