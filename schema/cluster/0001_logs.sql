-- The same table on every shard, and one in front of them. The sharding key is made of the identity alone, so a
-- duplicate always meets its twin on one shard, and FINAL through the front is exact over all shards.
CREATE TABLE IF NOT EXISTS logs_local ON CLUSTER '{cluster}'
(
    tenant    LowCardinality(String),
    timestamp DateTime64(9, 'UTC')                CODEC(Delta(8), ZSTD(1)),
    service   LowCardinality(String),
    level     LowCardinality(String),
    message   String                              CODEC(ZSTD(1)),
    metadata  Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    trace_id  String                              CODEC(ZSTD(1)),
    span_id   String                              CODEC(ZSTD(1)),
    -- Logs of one batch share the upper 44 bits; ZSTD finds them again even where batches lie interleaved.
    dedupe    UInt64                              CODEC(ZSTD(1)),

    INDEX trace_id trace_id            TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX metadata mapValues(metadata) TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/logs_local', '{replica}')
PARTITION BY toDate(timestamp)
PRIMARY KEY (tenant, timestamp)
ORDER BY (tenant, timestamp, dedupe)
TTL timestamp + INTERVAL 30 DAY DELETE
SETTINGS
    -- Whole days are dropped; nothing is rewritten to delete single rows.
    ttl_only_drop_parts = 1,
    -- A redelivered event is recognised by its token and not written again. FINAL is what makes counts right.
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 86400;

CREATE TABLE IF NOT EXISTS logs ON CLUSTER '{cluster}' AS logs_local
ENGINE = Distributed('{cluster}', currentDatabase(), logs_local, cityHash64(tenant, dedupe));
