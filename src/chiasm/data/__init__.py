"""Files to typed batches: formats, media, prompts, collation, mixtures, and the check of a file."""
