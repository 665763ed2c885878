SELECT COUNT(*) FROM {ledger} WHERE batch_id = {batch_id} AND connector = {connector};
