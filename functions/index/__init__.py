"""One CloudEvent a POST, from KafkaSource, into ClickHouse: a 204 means that its logs are stored."""
