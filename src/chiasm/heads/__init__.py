"""From states to answers: what a model predicts besides text."""
