"""Generated from schema/*.proto by `make proto`. With this folder on its path a client imports log_pb2."""
