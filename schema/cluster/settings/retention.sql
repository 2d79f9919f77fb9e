ALTER TABLE logs_local ON CLUSTER '{cluster}' MODIFY TTL timestamp + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE touched_local ON CLUSTER '{cluster}' MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE rollup_local ON CLUSTER '{cluster}' MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE rollup_hours_local ON CLUSTER '{cluster}' MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
