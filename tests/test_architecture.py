"""Imports point one way only, from the command line down to the configuration, and form no circle.

The code is parsed, not run. Imports for type checkers and those inside functions count too.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.support.layers import LAYERS, WITHOUT_FLASK, level_of, page

PACKAGE = ROOT / "goblin_assistant"
MOST_AT_THE_ROOT = 12


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


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, by its full dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if _below(dotted) in MODULES else str(node.module)


def _below(dotted: str) -> str:
    return dotted.removeprefix("goblin_assistant").removeprefix(".")


def ours(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = {m for m in imports(MODULES[name]) if m.split(".")[0] == "goblin_assistant"}
    return {_below(module) for module in found} & set(MODULES) - {name}


def test_every_name_at_the_root_has_a_layer_and_every_layer_exists() -> None:
    at_root = {name.split(".")[0] for name in MODULES}
    named = [name for layer in LAYERS for name in layer.names]
    assert len(named) == len(set(named))
    assert at_root == set(named)


def test_a_module_imports_only_from_its_own_layer_and_below() -> None:
    upward = {
        f"{name or '__init__'} imports {other}"
        for name in MODULES
        for other in ours(name)
        if level_of(other) < level_of(name)
    }
    assert not upward


def test_imports_form_no_circle() -> None:
    """Also none of imports that only a type checker sees."""
    graph = {name: ours(name) for name in MODULES}
    for name, others in graph.items():
        # Importing a module runs the packages around it first. The module did not ask for that.
        graph[name] = {other for other in others if other and not name.startswith(f"{other}.")}
    graphlib.TopologicalSorter(graph).prepare()


def test_from_calls_down_nothing_imports_flask() -> None:
    below = {name for name in MODULES if name.split(".")[0] in WITHOUT_FLASK}
    assert "calls.service" in below
    with_flask = {
        name
        for name in below
        for other in imports(MODULES[name])
        if other.split(".")[0].startswith(("flask", "apiflask"))
    }
    assert not with_flask


def test_only_the_upstream_client_and_the_service_checks_talk_http() -> None:
    clients = ("requests", "urllib3", "http.client", "httpx")
    talkers = {
        name
        for name, path in MODULES.items()
        for other in imports(path)
        if other.startswith(clients)
    }
    # The command line may ask a running server: doctor and explain do.
    allowed = {name for name in talkers if name.startswith(("commands.", "providers.upstream."))}
    assert talkers - allowed <= {"cli", "health.checks"}


def test_the_database_is_spoken_to_without_the_orm() -> None:
    """6 MB and 60 ms of every start: docs/adr/0011."""
    found = {
        name for name, path in MODULES.items() if any("sqlalchemy.orm" in m for m in imports(path))
    }
    assert not found


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_ROOT


def test_every_folder_says_what_it_is() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_nothing_is_called_utils_helpers_common_or_managers() -> None:
    words = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert not [name for name in MODULES if words & set(name.replace("_", ".").split("."))]


def test_the_page_on_architecture_shows_these_layers() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert text == page(text), "run `make docs`"
