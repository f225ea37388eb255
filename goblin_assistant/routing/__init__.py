"""From a model's name to a provider that may be called now."""
