"""One line of the checklist, and the functions that make it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import requests

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.health.services import CheckFailed
from goblin_assistant.providers.errors import ProviderError

Verdict = Literal["ok", "warning", "failure"]
SEVERITY: dict[Verdict, int] = {"ok": 0, "warning": 1, "failure": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `fix` says in one sentence what to do; empty if the verdict is ok."""

    verdict: Verdict
    subject: str
    message: str
    fix: str = ""


Check = Callable[[Context], Iterable[Finding]]


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, message)


def warning(subject: str, message: str, fix: str) -> Finding:
    """It runs, but not as it should in production."""
    return Finding("warning", subject, message, fix)


def failure(subject: str, message: str, fix: str) -> Finding:
    """Not ready for production."""
    return Finding("failure", subject, message, fix)


def run(check: Check, context: Context) -> Iterator[Finding]:
    """Run a check. If it raises an exception, that becomes a finding, and the list goes on."""
    try:
        yield from check(context)
    except Exception as error:
        yield failure(
            check.__name__.replace("_", " "),
            f"this check broke off: {in_words(error)}",
            "Mend what it names, or report it as a fault of doctor.",
        )


def in_words(error: BaseException) -> str:
    """An error in words, without secrets: no URL with a password, no SQL statement."""
    if isinstance(error, CheckFailed | ProviderError):
        return str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed: the certificate is not trusted, or this is no TLS port"
    if isinstance(error, requests.Timeout | TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "connection refused or broken"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
