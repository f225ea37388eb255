"""Anthropic's Messages API, as a provider that we call."""
