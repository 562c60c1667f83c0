"""Losses as sums with counts, one class a loss."""
