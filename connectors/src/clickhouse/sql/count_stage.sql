SELECT uniqExact(event_id), toUnixTimestamp64Micro(now64(6)) FROM {stage}
