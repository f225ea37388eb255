"""The upstream client, under the name by which plug-ins of version 0.1 import it."""

from goblin_assistant.providers.upstream import EventStream, Timeouts, UpstreamClient

__all__ = ["EventStream", "Timeouts", "UpstreamClient"]
