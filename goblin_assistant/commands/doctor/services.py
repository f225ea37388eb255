"""Checks of the providers, Chroma and the sandbox. They cost nothing."""

from __future__ import annotations

from collections.abc import Iterator

from goblin_assistant.accounts.users import Principal
from goblin_assistant.calls.access import EMBEDDED, ModelAccess
from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning
from goblin_assistant.errors import Forbidden, UnknownModel
from goblin_assistant.health.checks import CHROMA_HEARTBEAT, SANDBOX_HEALTH, http_check
from goblin_assistant.health.services import CheckFailed
from goblin_assistant.providers import Registry, build_registry
from goblin_assistant.providers.errors import AuthenticationFailed, ProviderError
from goblin_assistant.routing.targets import Resolver

_NETWORK = "See that it is up and that this machine may connect to it; check its address."
_ANYBODY = Principal(user_id=0, role="user")


def providers(context: Context) -> Iterator[Finding]:
    """Each provider answers its free health check, and some provider serves the default model."""
    registry = build_registry(context.config)
    try:
        listed = {name: one for name, one in registry.providers.items() if one.listed}
        for name, provider in listed.items():
            try:
                provider.check(context.config.health_timeout)
            except AuthenticationFailed as error:
                yield failure(name, str(error), "Set this provider's key to a good one.")
            except ProviderError as error:
                yield failure(name, str(error), _NETWORK)
            else:
                yield ok(name, _answers(name, context))
        if listed.keys() <= {"echo"}:
            yield warning(
                "providers",
                "only the embedded echo, which is no language model",
                "Set OPENAI_API_KEY or ANTHROPIC_API_KEY, or add a row to goblin.toml.",
            )
        yield _default_model(context, registry)
    finally:
        registry.close()


def _answers(name: str, context: Context) -> str:
    if name == EMBEDDED and context.config.echo_by_name:
        return "answers API keys whose model list names it, and nobody else"
    return "answers"


def _default_model(context: Context, registry: Registry) -> Finding:
    # After the checks, because they load the list of models of each provider.
    access = ModelAccess(context.config)
    name = access.default_model
    if not name:
        return ok("default model", "none: a chat that names no model is refused with 400")
    try:
        targets = Resolver(context.config.file, registry).resolve(name)
        access.without_echo(_ANYBODY, name, targets)
    except (UnknownModel, Forbidden) as error:
        return failure(
            "default model",
            f"GOBLIN_DEFAULT_MODEL={name} answers nobody: {error.message}",
            "Set it to a name that GET /v1/models lists, or leave it empty.",
        )
    return ok("default model", name)


def dependencies(context: Context) -> Iterator[Finding]:
    """Chroma and the sandbox answer, if they are configured."""
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
