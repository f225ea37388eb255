"""Imports point one way only, from the server down to the configuration, and form no circle. Parsed, not run."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "goblin_assistant"

# From the top. A module may import from its own layer and from those below it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__", "cli", "commands", "commands.*"),
    ("server", "server_*", "process_setup", "simulator"),
    ("", "assembly", "lifecycle"),
    (
        "blueprints", "blueprints.*", "metrics_endpoint", "error_handlers", "json_requests", "openapi",
        "security_headers",
    ),
    ("auth", "rate_limits", "body_limits", "observability"),
    ("chat", "chat_*", "health", "service_checks", "explain", "anthropic_*"),
    (
        "routing", "circuit_breaker", "slots", "idempotency", "usage", "usage_*", "budgets", "prices",
        "accounts", "api_keys", "passwords", "principals", "tokens", "refresh_*", "database", "migrations", "migrations.*",
        "limit_*", "shared_limit_storage", "postgres_connection", "schema_compatibility",
    ),
    ("extensions", "schemas", "schemas_*", "models", "errors", "request_body", "request_info"),
    ("providers", "providers.*"),
    (
        "config", "config_*", "goblin_file", "metrics", "json_logging", "log_writer", "redaction", "version",
        "reaper", "thread_budget", "database_gate", "forking", "json_bounds",
    ),
)  # fmt: skip

WITHOUT_FLASK = (
    "chat",
    "chat_run",
    "routing",
    "usage",
    "accounts",
    "health",
    "service_checks",
    "providers.*",
    "slots",
)
"""What must be usable without a request, and testable without an application."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name below goblin_assistant; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """Modules of ours that `path` imports; those only for type checkers are left out, those inside functions unless
    `lazy`."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            continue
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield (
                    dotted
                    if dotted.removeprefix("goblin_assistant.") in MODULES
                    else str(node.module)
                )
        else:
            pending.extend(ast.iter_child_nodes(node))


def ours(path: Path, *, lazy: bool) -> set[str]:
    """The same, by the names of MODULES."""
    names = {name for name in imports(path, lazy=lazy) if name.split(".")[0] == "goblin_assistant"}
    return {name.removeprefix("goblin_assistant").removeprefix(".") for name in names}


def layer_of(module: str) -> int:
    """0 is the top."""
    found = [
        number
        for number, names in enumerate(LAYERS)
        if any(fnmatchcase(module, name) for name in names)
    ]
    assert len(found) == 1, f"{module} must have exactly one layer in LAYERS, has {found}"
    return found[0]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_its_own_layer_and_below(module: str) -> None:
    own = layer_of(module)
    upward = {
        name
        for name in ours(MODULES[module], lazy=True)
        if name in MODULES and layer_of(name) < own
    }
    assert not upward, f"{module or '__init__'} imports from above: {sorted(upward)}"


def test_imports_form_no_circle() -> None:
    graph = {name: ours(path, lazy=False) & set(MODULES) - {name} for name, path in MODULES.items()}
    for name in graph:
        # Importing a module runs the packages around it first; they are not a dependency of its own making.
        graph[name] = {
            other for other in graph[name] if not name.startswith(f"{other}.") and other != ""
        }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_works_without_a_request_imports_no_flask(module: str) -> None:
    if not any(fnmatchcase(module, name) for name in WITHOUT_FLASK):
        pytest.skip("may import Flask")
    flask = {
        name
        for name in imports(MODULES[module], lazy=True)
        if name.split(".")[0].startswith(("flask", "apiflask"))
    }
    assert not flask


def test_only_the_provider_client_and_the_service_checks_talk_http() -> None:
    talkers = {
        name
        for name, path in MODULES.items()
        if any(
            other.startswith(("requests", "urllib3", "http.client", "httpx"))
            for other in imports(path, lazy=True)
        )
    }
    above = ("commands*", "cli")  # doctor and explain may ask over HTTP
    assert all(
        any(fnmatchcase(name, p) for p in ("providers.*", "service_checks", *above))
        for name in talkers
    ), talkers


def test_the_database_is_spoken_to_without_the_orm() -> None:
    """6 MB and 60 ms of every start: docs/adr/0011."""
    found = {
        name
        for name, path in MODULES.items()
        if any("sqlalchemy.orm" in m for m in imports(path, lazy=True))
    }
    assert not found


def test_nothing_is_called_utils_helpers_common_or_managers() -> None:
    words = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert not [name for name in MODULES if words & set(name.replace("_", ".").split("."))]
