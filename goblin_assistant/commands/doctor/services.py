"""The providers, Chroma and the sandbox. No check costs money."""

from __future__ import annotations

from collections.abc import Iterator

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning
from goblin_assistant.health.checks import CHROMA_HEARTBEAT, SANDBOX_HEALTH, http_check
from goblin_assistant.health.services import CheckFailed
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.errors import AuthenticationFailed, ProviderError

_NETWORK = "See that it is up and that this machine may connect to it; check its address."


def providers(context: Context) -> Iterator[Finding]:
    """Each provider answers its free check."""
    registry = build_registry(context.config)
    try:
        for name, provider in registry.providers.items():
            try:
                provider.check(context.config.health_timeout)
            except AuthenticationFailed as error:
                yield failure(name, str(error), "Set this provider's key to a good one.")
            except ProviderError as error:
                yield failure(name, str(error), _NETWORK)
            else:
                yield ok(name, "answers")
        if set(registry.providers) <= {"echo"}:
            yield warning(
                "providers",
                "only the embedded echo, which is no language model",
                "Set OPENAI_API_KEY or ANTHROPIC_API_KEY, or add a row to goblin.toml.",
            )
    finally:
        registry.close()


def dependencies(context: Context) -> Iterator[Finding]:
    """Chroma and the sandbox, where they are configured."""
    config = context.config
    for name, setting, address, path in (
        ("chroma", "CHROMA_URL", config.chroma_url, CHROMA_HEARTBEAT),
        ("sandbox", "SANDBOX_URL", config.sandbox_url, SANDBOX_HEALTH),
    ):
        if not address:
            continue
        try:
            http_check(address + path)(config.health_timeout)
        except CheckFailed as error:
            yield failure(name, f"{path}: {error}", f"Start it, or correct or remove {setting}.")
        else:
            yield ok(name, "answers")
