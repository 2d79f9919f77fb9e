ALTER TABLE logs_local ON CLUSTER '{cluster}' MODIFY TTL timestamp + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
