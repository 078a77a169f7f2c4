"""Benchmarks: figures with their bounds, measured in one run. No tests, not part of CI (`make bench-NAME`)."""
