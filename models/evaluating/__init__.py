"""Judging a model on rows that it has not seen: errors, how surely they are known, for whom, and why. No torch."""
