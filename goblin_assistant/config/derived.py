"""Values that follow from several settings."""

from __future__ import annotations

import re
import socket

from goblin_assistant.config.calls import CallSettings
from goblin_assistant.config.instance import InstanceSettings
from goblin_assistant.config.server import ServerSettings

SHARE_OF_TOTAL = 0.8
"""Of GOBLIN_TIMEOUT_TOTAL, for one attempt: it leaves time for the next target."""


# Pydantic takes the fields of the last base first: this is the order of the documentation.
class DerivedValues(CallSettings, ServerSettings, InstanceSettings):
    """All groups of settings, and what follows from them."""

    @property
    def production(self) -> bool:
        """Whether the strict rules hold."""
        return self.env == "production"

    @property
    def instance_label(self) -> str:
        """What tells this instance's log lines from those of others."""
        return self.instance_name or f"{socket.gethostname()}:{self.port}"

    @property
    def registration_open(self) -> bool:
        """Whether anybody may create an account."""
        return self.registration == "open" or (self.registration == "" and not self.production)

    @property
    def slots(self) -> int:
        """Chat slots: fewer than threads, so that health, metrics and logins find a thread."""
        if self.chat_slots is not None:
            return self.chat_slots
        return self.threads - max(3, self.threads // 8)

    @property
    def reserved_threads(self) -> int:
        """Threads for what is answered without waiting: health, metrics, refusals."""
        return 1 if self.threads < 16 else min(2, self.threads - self.slots)

    @property
    def held_threads(self) -> int:
        """Threads that chats and logins may hold together, running or waiting."""
        return self.threads - self.reserved_threads

    @property
    def most_chats_waiting(self) -> int:
        """Chats that may wait for a slot."""
        if self.chats_waiting is not None:
            return self.chats_waiting
        spare = self.threads - self.slots
        return min(spare // 2, spare - self.reserved_threads)

    @property
    def longest_answer(self) -> float:
        """Seconds for an answer in one piece."""
        return self.timeout_answer or SHARE_OF_TOTAL * self.timeout_total

    @property
    def longest_comments(self) -> float:
        """Seconds to a stream's first event while its provider sends comments."""
        return self.timeout_comments or SHARE_OF_TOTAL * self.timeout_total

    @property
    def most_logins(self) -> int:
        """Requests with a password that may be inside at once."""
        return self.logins_at_once if self.logins_at_once is not None else max(1, self.threads // 4)

    @property
    def sqlalchemy_url(self) -> str:
        """DATABASE_URL with the driver that is installed, or SQLite in the instance folder."""
        url = self.database_url
        if not url:
            return f"sqlite:///{(self.instance_dir / 'goblin.db').resolve()}"
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)

    @property
    def pending_body_bytes(self) -> int:
        """How many bytes all request bodies together may hold."""
        if self.max_pending_body_bytes is not None:
            return self.max_pending_body_bytes
        return 16 * self.max_body_bytes

    @property
    def limits_uri(self) -> str:
        """The URI of the storage that counts limits."""
        return self.ratelimit_storage_uri or self.redis_url or "memory://"

    @property
    def secret(self) -> str:
        """The signing key. Config.load() guarantees that there is one."""
        assert self.secret_key is not None
        return self.secret_key.get_secret_value()

    @property
    def accepted_secrets(self) -> tuple[str, ...]:
        """The keys whose signatures are accepted: the signing key first."""
        previous = self.secret_key_previous
        return (self.secret,) if previous is None else (self.secret, previous.get_secret_value())
