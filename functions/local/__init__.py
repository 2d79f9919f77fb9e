"""All four functions in one process, with the engine, a broker and a KafkaSource stand-in: `make run`."""
