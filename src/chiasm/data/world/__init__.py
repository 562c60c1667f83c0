"""The procedural world: scenes with exact truth, their pictures, questions, captions and masks."""
