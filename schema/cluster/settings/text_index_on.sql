-- Search compares lowerUTF8(message) with lowerUTF8(words), so it finds the same rows with the index and without it.
ALTER TABLE logs_local ON CLUSTER '{cluster}' ADD INDEX IF NOT EXISTS message lowerUTF8(message)
    TYPE text(tokenizer = splitByNonAlpha, posting_list_codec = 'bitpacking');
ALTER TABLE logs_local ON CLUSTER '{cluster}' MATERIALIZE INDEX message;
