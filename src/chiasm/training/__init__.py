"""One training loop for every model: stages, freezing, audit, exact resume."""
