"""Suites, the runner, its report, and the honest analysis of a gate."""
