"""Columns of a model: what they may hold, how tables are validated and how rows become arrays."""
