"""Blocks without policy: mechanisms that several stages use."""
