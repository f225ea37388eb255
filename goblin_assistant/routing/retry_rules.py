"""What may be asked again after a failure, and where: the one table. docs/routing.md shows it.

A provider that was sent a request and went silent may be generating, and bills for it. It is never
asked the same again, under no name of its models. The next provider of a chain may be asked, and
the usage record says that the first may bill as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from goblin_assistant.providers.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    ProviderError,
    Reach,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What follows a failure. `same`: the same provider may be asked again. `further`: the next
    target may. `may_bill`: the provider may be generating all the same."""

    failure: str
    same: bool
    further: bool
    may_bill: bool = False


REFUSED = Rule("refuses the request (400, 413, 422, content filter)", False, False)
TOO_LONG = Rule("says that the prompt is too long", False, True)
NOT_SERVED = Rule(
    "does not serve the model (404, 410), refuses our key (401, 403), has no credit of ours (402), "
    "redirects (3xx), answers with another 4xx",
    False,
    True,
)
NOT_REACHED = Rule("cannot be reached: no connection, TLS failed, no address", True, True)
UNREAD = Rule(
    "closes the connection within a second of the request, before a byte of an answer", True, True
)
FAILED = Rule(
    "answers with a failure: 408, 409, 425, 429, 498, 5xx, an error inside an answer with status "
    "200",
    True,
    True,
)
SILENT = Rule(
    "is silent after the request: first-token limit, `GOBLIN_TIMEOUT_ANSWER`, our deadline, "
    "connection closed later than that second",
    False,
    True,
    may_bill=True,
)
BROKEN = Rule(
    "begins an answer and breaks off, or answers with status 200 and what cannot be used",
    False,
    True,
    may_bill=True,
)
PAID = Rule("finishes an answer that cannot be passed on, and that is booked", False, True)

RULES = (REFUSED, TOO_LONG, NOT_SERVED, NOT_REACHED, UNREAD, FAILED, SILENT, BROKEN, PAID)

_BY_REACH = {
    Reach.NOT_REACHED: NOT_REACHED,
    Reach.UNREAD: UNREAD,
    Reach.ANSWERED: FAILED,
    Reach.SILENT: SILENT,
    Reach.BROKEN: BROKEN,
}


def rule_of(error: ProviderError) -> Rule:
    """The rule for a failure."""
    if isinstance(error, ContextLengthExceeded):
        return TOO_LONG
    if isinstance(error, InvalidRequest):
        return REFUSED
    if error.untranslatable:
        return PAID
    if not error.retryable or error.reach is Reach.LASTING:
        return NOT_SERVED
    return _BY_REACH[error.reach]


def markdown() -> str:
    """The table of docs/routing.md."""
    lines = [
        "| the provider | same provider again | next target of the chain | may bill all the same |",
        "|---|---|---|---|",
    ]
    words = {True: "yes", False: "no"}
    for rule in RULES:
        same = "if no other target can be asked" if rule.same else "no"
        cells = (rule.failure, same, words[rule.further], words[rule.may_bill])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
