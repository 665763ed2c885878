SELECT COUNT(*) FROM {ledger} WHERE connector = {connector} AND batch_id = {batch_id};
