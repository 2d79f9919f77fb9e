-- What was applied, and the checksum of its text then. The migration reads it before it does anything.
CREATE TABLE IF NOT EXISTS schema_ledger
(
    name       String,
    checksum   String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (name, applied_at);
