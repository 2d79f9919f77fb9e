"""Serve export."""

from functions.common.host import serve

serve("functions.export.function")
