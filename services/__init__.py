"""What answers now: the Bento service and the parts of its request path."""
