"""The language model being extended: hosts, the splice, generation, adapters."""
