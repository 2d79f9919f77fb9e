ALTER TABLE logs MODIFY TTL timestamp + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE touched MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE rollup MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
ALTER TABLE rollup_hours MODIFY TTL hour + INTERVAL {retention_days} DAY DELETE SETTINGS materialize_ttl_after_modify = 0;
