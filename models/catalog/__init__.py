"""One folder a model: what a data scientist writes."""
