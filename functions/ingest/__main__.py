"""Serve ingest."""

from functions.common.host import serve

serve("functions.ingest.function")
