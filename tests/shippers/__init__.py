"""ops/logging: what the shippers make of this product's log."""
