"""Serve index."""

from functions.common.host import serve

serve("functions.index.function")
