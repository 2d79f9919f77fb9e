"""Ingest over gRPC: a server of its own, since Knative gives a Service one port."""
