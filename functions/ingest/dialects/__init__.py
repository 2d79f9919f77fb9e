"""The protocols that clients speak: a module each, bytes to records."""
