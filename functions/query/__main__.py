"""Serve query."""

from functions.common.host import serve

serve("functions.query.function")
