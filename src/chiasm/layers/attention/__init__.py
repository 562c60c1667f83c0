"""Attention types, one file each."""
