-- Counts per minute, service and level, made from the deduplicated rows (functions/common/rollup.py), never summed on
-- insert: a sum would count a log again each time it is stored again.

-- How many inserts have touched an hour of a tenant.
CREATE TABLE IF NOT EXISTS touched_local ON CLUSTER '{cluster}'
(
    tenant  LowCardinality(String),
    hour    DateTime('UTC'),
    inserts UInt64
)
ENGINE = ReplicatedSummingMergeTree('/clickhouse/tables/{shard}/{database}/touched_local', '{replica}', inserts)
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, hour)
TTL hour + INTERVAL 32 DAY DELETE;

CREATE TABLE IF NOT EXISTS touched ON CLUSTER '{cluster}' AS touched_local
ENGINE = Distributed('{cluster}', currentDatabase(), touched_local, cityHash64(tenant, hour));

-- It is written within the insert that it tells of, after the rows: an insert that is answered has been counted.
CREATE MATERIALIZED VIEW IF NOT EXISTS touched_by_logs ON CLUSTER '{cluster}' TO touched_local AS
SELECT tenant, toDateTime(toStartOfHour(timestamp, 'UTC'), 'UTC') AS hour, toUInt64(1) AS inserts
FROM logs_local
GROUP BY tenant, hour;

-- Counts of an hour. A rebuilt hour comes under a new generation beside the old one.
CREATE TABLE IF NOT EXISTS rollup_local ON CLUSTER '{cluster}'
(
    tenant     LowCardinality(String),
    hour       DateTime('UTC')  CODEC(Delta(4), ZSTD(1)),
    generation UInt64           CODEC(ZSTD(1)),
    minute     DateTime('UTC')  CODEC(Delta(4), ZSTD(1)),
    service    LowCardinality(String),
    level      LowCardinality(String),
    count      UInt64           CODEC(T64, ZSTD(1))
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/rollup_local', '{replica}')
PARTITION BY toDate(hour)
ORDER BY (tenant, hour, generation, minute, service, level)
TTL hour + INTERVAL 32 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS rollup ON CLUSTER '{cluster}' AS rollup_local
ENGINE = Distributed('{cluster}', currentDatabase(), rollup_local, cityHash64(tenant, hour));

-- The generation of each hour that counts, and how many inserts had touched the hour before it was made. If more have
-- by now, the hour is open again, and its logs are counted themselves.
CREATE TABLE IF NOT EXISTS rollup_hours_local ON CLUSTER '{cluster}'
(
    tenant     LowCardinality(String),
    hour       DateTime('UTC'),
    generation UInt64,
    inserts    UInt64
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/rollup_hours_local', '{replica}', generation)
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, hour)
TTL hour + INTERVAL 32 DAY DELETE;

CREATE TABLE IF NOT EXISTS rollup_hours ON CLUSTER '{cluster}' AS rollup_hours_local
ENGINE = Distributed('{cluster}', currentDatabase(), rollup_hours_local, cityHash64(tenant, hour));

-- Logs that were stored before there were rollups.
INSERT INTO touched (tenant, hour, inserts)
SELECT tenant, toDateTime(toStartOfHour(timestamp, 'UTC'), 'UTC') AS hour, 1
FROM logs
GROUP BY tenant, hour;
