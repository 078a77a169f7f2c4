"""The lake on one machine."""
