-- Search compares lower(message) with lower(words), so it finds the same rows with the index and without it.
ALTER TABLE logs_local ON CLUSTER '{cluster}' ADD INDEX IF NOT EXISTS message lower(message)
    TYPE text(tokenizer = splitByNonAlpha, posting_list_codec = 'bitpacking');
ALTER TABLE logs_local ON CLUSTER '{cluster}' MATERIALIZE INDEX message;
