"""Logs in: ingest -> Kafka -> index -> ClickHouse. Logs out: ClickHouse -> query, export."""
