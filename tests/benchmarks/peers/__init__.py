"""Products and bare programs that Okruh is measured beside."""
