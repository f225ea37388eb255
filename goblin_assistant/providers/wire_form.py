"""The types of an entry of wire_forms.py: what is known about one server's wire format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReasoningField = Literal["reasoning_content", "reasoning", "thinking_parts", ""]

THINKING = ("thinking_blocks",)
"""This product's own field for Anthropic's thinking: no server but Anthropic knows it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The reference for a statement, and the day on which it was read."""

    reference: str
    read_on: str = "2026-11-27"

    @property
    def told(self) -> str:
        """Both, for the documentation."""
        return f"{self.reference}, {self.read_on}"


@dataclass(frozen=True, slots=True)
class MessageForm:
    """What a server accepts in the messages of a chat. openai/messages.py adapts chats to it.

    `reasoning_field`: the field of an assistant message for reasoning. thinking_parts: inside its
    content, as Mistral does; empty: none, reasoning is left out; None: as the client sends it.
    `reasoning_required`: after a tool call the field must be present, even if empty.
    `refused_fields`: other fields of assistant messages and tool calls that the server refuses. If
    `refusal` is one of them, it becomes text.
    `thought_signatures`: tool calls must carry Google's signature. `tool_name_limit`: longer names,
    and names with characters that OpenAI does not allow, are replaced by shorter ones.
    `developer_role`: the role developer is accepted; otherwise it is sent as system. `names`: the
    `name` of messages is accepted, not only of tool results. `tool_call_ids`: a regular expression
    for ids that are accepted; others are replaced by nine letters and digits. `id_limit`: longer
    ids are shortened. `bridge`: what the assistant says between a tool's result and the user, where
    the server requires something; empty: nothing. `cache_control`: Anthropic's cache marks are
    accepted. `cache_marks`: the server uses them, so translation from Anthropic's dialect keeps
    them.
    """

    source: Source
    reasoning_field: ReasoningField | None = None
    reasoning_required: bool = False
    refused_fields: tuple[str, ...] = THINKING
    thought_signatures: bool = False
    tool_name_limit: int | None = None
    developer_role: bool = False
    names: bool = True
    tool_call_ids: str = ""
    id_limit: int | None = None
    bridge: str = ""
    cache_control: bool = True
    cache_marks: bool = False


@dataclass(frozen=True, slots=True)
class UsageForm:
    """How a server reports usage. openai/wire.py and anthropic/response.py read it.

    `streamed`: where usage is in a stream. `reasoning` and `cache`: where those tokens are counted.
    `price`: what else changes the price of a token.
    """

    streamed: str
    reasoning: str
    cache: str
    price: str
    source: Source


@dataclass(frozen=True, slots=True)
class OverflowForm:
    """How a server reports a prompt that is too long: an example sentence, and the error code if it
    has one. overflow.py reads it."""

    sentence: str
    source: Source
    code: str | None = None


@dataclass(frozen=True, slots=True)
class WireForm:
    """One server. `messages` is None for a server whose dialect is translated as a whole."""

    messages: MessageForm | None
    usage: UsageForm
    overflow: OverflowForm


ANY = MessageForm(Source("none: the server is not known"), developer_role=True)
"""For unknown servers: everything except THINKING is passed on as the client sent it."""
