-- What was applied, and the checksum of its text then: one copy of all entries on every replica of every shard.
CREATE TABLE IF NOT EXISTS schema_ledger ON CLUSTER '{cluster}'
(
    name       String,
    checksum   String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{database}/schema_ledger', '{shard}-{replica}')
ORDER BY (name, applied_at);
