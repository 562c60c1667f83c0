"""Few tokens out of many, with sizes and sources."""
