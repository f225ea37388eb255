"""What is known of one server's wire format: the shape of an entry of wire_forms.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReasoningField = Literal["reasoning_content", "reasoning", "thinking_parts", ""]

THINKING = ("thinking_blocks",)
"""This product's own field for Anthropic's thinking: no server but Anthropic knows it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a statement stands, and the day on which it was read there; empty: it was not compared
    with the server's own words."""

    reference: str
    read_on: str = "2026-11-27"


@dataclass(frozen=True, slots=True)
class MessageForm:
    """What a server takes in the messages of a chat. openai/messages.py fits chats to it.

    `reasoning_field`: where an assistant's message has its reasoning; thinking_parts: in its
    content, as Mistral writes it; empty: nowhere, it is left out; None: as the client sends it.
    `reasoning_required`: after a tool call the field has to be there, empty at least.
    `refused_fields`: other fields of an assistant's message and of its tool calls that the server
    refuses; a refusal becomes text then. `thought_signatures`: tool calls need Google's signature
    back. `tool_name_limit`: a longer name, or one with other characters than OpenAI's, is sent as
    a shorter one. `developer_role`: it is taken; else such a message is sent as one of the system.
    `names`: the `name` of messages is taken, not only of tools' results. `tool_call_ids`: a regular
    expression of the ids that are taken; others become nine letters and digits. `id_limit`: a
    longer id is shortened. `cache_control`: Anthropic's cache marks are taken. `cache_marks`: they
    are read, so that a translation of Anthropic's dialect keeps them.
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
    cache_control: bool = True
    cache_marks: bool = False


@dataclass(frozen=True, slots=True)
class UsageForm:
    """How a server reports usage. openai/wire.py and anthropic/response.py read it.

    `streamed` says where it stands in a stream, `reasoning` and `cache` what holds those tokens,
    `price` what else changes the price of a token.
    """

    streamed: str
    reasoning: str
    cache: str
    price: str
    source: Source


@dataclass(frozen=True, slots=True)
class OverflowForm:
    """How a server says that the prompt is too long: an example, with the code if it has one.
    overflow.py reads it."""

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
"""For servers that are not known: everything passes as the client sends it, but for THINKING."""
