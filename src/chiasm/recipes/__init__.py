"""The schema, the loader and the shipped recipes."""
