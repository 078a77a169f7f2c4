"""Experiment tracking: what a training reports, the process that records it, and the product that is told."""
