"""Search results as a file, streamed."""
