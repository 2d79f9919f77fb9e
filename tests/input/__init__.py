"""Bad input of every kind against running parts; `python -m tests.input` prints what came of it."""
