"""Requests to providers: connections, deadlines, streams. Plug-ins import the names from here."""

from goblin_assistant.providers.upstream.client import UpstreamClient
from goblin_assistant.providers.upstream.errors import Timeouts
from goblin_assistant.providers.upstream.event_stream import EventStream

__all__ = ["EventStream", "Timeouts", "UpstreamClient"]
