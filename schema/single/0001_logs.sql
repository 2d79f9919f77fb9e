-- One row a log. A row is the same log if tenant, timestamp and dedupe agree: a merge keeps one of them, and every
-- read says FINAL. Sorting by time first makes "the newest N" cheap under any filter, and compresses best.
CREATE TABLE IF NOT EXISTS logs
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
ENGINE = ReplacingMergeTree
PARTITION BY toDate(timestamp)
PRIMARY KEY (tenant, timestamp)
ORDER BY (tenant, timestamp, dedupe)
TTL timestamp + INTERVAL 30 DAY DELETE
SETTINGS
    -- Whole days are dropped; nothing is rewritten to delete single rows.
    ttl_only_drop_parts = 1,
    -- A redelivered event is recognised by its token and not written again. FINAL is what makes counts right.
    non_replicated_deduplication_window = 10000;
