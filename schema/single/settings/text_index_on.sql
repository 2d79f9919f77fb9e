-- Search compares lower(message) with lower(words), so it finds the same rows with the index and without it.
ALTER TABLE logs ADD INDEX IF NOT EXISTS message lower(message)
    TYPE text(tokenizer = splitByNonAlpha, posting_list_codec = 'bitpacking');
ALTER TABLE logs MATERIALIZE INDEX message;
