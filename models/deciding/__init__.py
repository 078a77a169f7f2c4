"""Verdicts: may a candidate serve, is it time to train again, who serves now."""
