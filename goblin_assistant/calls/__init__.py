"""One call to a provider, from admission to record."""
