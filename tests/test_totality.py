"""Tables are complete: a new error, status or module cannot be missing from the lists of them."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import goblin_assistant
from goblin_assistant.dialects.error_bodies import (
    ANTHROPIC_TYPES,
    OPENAI_TYPES,
    body_for,
    retry_after_of,
)
from goblin_assistant.errors import APP_ERRORS, AppError, AuthFailure, label_of, source_of
from goblin_assistant.providers.base import PROVIDER_ERRORS, ProviderError
from goblin_assistant.web.openapi import MEANINGS
from tests.conftest import ROOT

DOCUMENTED = (ROOT / "docs" / "errors.md").read_text()
EVERY: list[type[AppError] | type[ProviderError]] = [*APP_ERRORS, *PROVIDER_ERRORS]
NOBODY_READS = {499}  # the client has left: log, metrics and usage only


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind for direct in kind.__subclasses__() for kind in (direct, *subclasses(direct))}


def load_every_module() -> None:
    for module in pkgutil.walk_packages(goblin_assistant.__path__, "goblin_assistant."):
        if not module.name.startswith("goblin_assistant.migrations."):
            importlib.import_module(module.name)


def test_the_lists_hold_every_error_there_is() -> None:
    load_every_module()
    own = {kind for kind in subclasses(AppError) if kind.__module__ == "goblin_assistant.errors"}
    assert own == set(APP_ERRORS)
    assert {
        kind
        for kind in subclasses(ProviderError)
        if kind.__module__.startswith("goblin_assistant.")
    } == set(PROVIDER_ERRORS)


def test_errors_that_are_defined_elsewhere_are_kinds_of_listed_ones() -> None:
    load_every_module()
    for kind in subclasses(AppError):
        if kind.__module__ == "goblin_assistant.web.error_handlers":
            continue  # for a status that only the web framework gives; its phrase is the code
        if kind.__module__.startswith("goblin_assistant.") and kind not in APP_ERRORS:
            assert vars(kind).get("code") in {None, *(listed.code for listed in APP_ERRORS)}, (
                f"{kind} has a code of its own: document it in errors.py"
            )


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_code_and_a_row_in_the_docs(
    kind: type[AppError] | type[ProviderError],
) -> None:
    assert 400 <= kind.status <= 599
    assert re.fullmatch(r"[a-z][a-z0-9_]*", kind.code)
    assert re.search(rf"^\| {kind.status} \| `{kind.code}` \|", DOCUMENTED, re.MULTILINE), (
        f"docs/errors.md: {kind.code}"
    )


def test_the_page_on_errors_gives_each_code_once_and_blames_whom_the_code_blames() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| (client|limit|gateway|provider) \|", DOCUMENTED, re.MULTILINE
    )
    assert len(rows) == len(set(rows)) == len({row[:2] for row in rows})
    sources = {(str(kind.status), kind.code): source_of(kind("no")) for kind in APP_ERRORS}
    assert {(status, code): source for status, code, source in rows} == sources


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_body_in_each_dialect(kind: type[AppError] | type[ProviderError]) -> None:
    error = kind("no")
    assert body_for("/chat/completions", error, "id")["error"] == kind.code
    assert body_for("/v1/chat/completions", error, "id")["error"]["code"] == kind.code
    assert body_for("/v1/messages", error, "id")["error"]["message"] == "no"
    assert (retry_after_of(error) is not None) == (kind.status in (429, 503))


def test_every_status_has_a_type_for_the_sdks_and_a_meaning_in_the_document() -> None:
    statuses = {kind.status for kind in EVERY} - NOBODY_READS
    assert statuses <= set(OPENAI_TYPES)
    assert {status for status in statuses if status not in (405, 409, 415, 422, 502)} <= set(
        ANTHROPIC_TYPES
    )
    assert statuses - {405} <= set(MEANINGS)


def test_every_module_and_every_public_name_of_it_says_what_it_is() -> None:
    load_every_module()
    silent = []
    for module in pkgutil.walk_packages(goblin_assistant.__path__, "goblin_assistant."):
        if module.name.startswith("goblin_assistant.migrations."):
            continue
        loaded = importlib.import_module(module.name)
        if not loaded.__doc__ and module.name.rpartition(".")[2] != "__main__":
            silent.append(module.name)
        for name, value in vars(loaded).items():
            if (
                name.startswith("_")
                or getattr(value, "__module__", None) != module.name
                or not callable(value)
            ):
                continue
            if not getattr(value, "__doc__", None) and (
                isinstance(value, type) or hasattr(value, "__code__")
            ):
                silent.append(f"{module.name}.{name}")
    assert not silent


LABELS = {
    "AppError", "AuthenticationFailed", "BadRequest", "BadResponse", "BudgetExceeded",
    "CircuitOpen", "ClientGone", "Conflict", "ConnectionFailed", "ContentFiltered",
    "ContextLengthExceeded",
    "Forbidden", "IdempotencyMismatch", "InternalError", "InvalidRequest", "MethodNotAllowed",
    "ModelNotFound", "NotFound", "Overloaded", "OverloadedHere", "PayloadTooLarge", "PriceUnknown",
    "ProviderError", "RateLimitExceeded", "RateLimited", "RegistrationClosed", "ResourceNotFound",
    "Timeout", "TokenCountUnavailable",
    "Unauthorized", "Unavailable", "UnknownModel", "UnsupportedMediaType", "ValidationFailed",
}  # fmt: skip
"""Labels that dashboards use: a class may be renamed, its label stays."""


def test_every_error_has_the_label_that_dashboards_know() -> None:
    kinds = {AppError, ProviderError, *EVERY}
    labels = [vars(kind).get("label") for kind in kinds]
    assert sorted(labels, key=str) == sorted(LABELS)
    assert label_of(ZeroDivisionError()) == "ZeroDivisionError"


def test_the_labels_are_listed_in_the_page_on_metrics() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    served = {kind.label for kind in EVERY if kind.status >= 500}
    assert served <= set(re.findall(r"`(\w+)`", page))


def test_every_reason_of_a_refused_credential_is_documented() -> None:
    page = (ROOT / "docs" / "accounts.md").read_text()
    listed = re.search(r"`auth_failures_total\{reason\}`: ([\w, \n]+)", page)
    assert listed is not None
    assert set(re.findall(r"\w+", listed[1])) == set(AuthFailure)
