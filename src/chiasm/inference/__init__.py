"""Set media once, ask many times."""
