"""Traces: which request belongs to which, over several services."""
