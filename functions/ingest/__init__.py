"""HTTP in, Kafka out: a 200 means that Kafka has the logs."""
