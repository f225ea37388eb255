"""The upstream client under the name that plug-ins of version 0.1 import it by."""

from goblin_assistant.providers.upstream import EventStream, Timeouts, UpstreamClient

__all__ = ["EventStream", "Timeouts", "UpstreamClient"]
