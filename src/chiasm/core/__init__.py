"""What two stages must agree on: geometry, visual tokens, samples, batches, outputs, protocols."""
