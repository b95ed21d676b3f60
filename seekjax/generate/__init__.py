"""Generation: sampling, decoding with a cache, drafts, detokenisation. All on token ids."""
