"""The versioned store of data and bundles: one protocol, one store a product."""
