"""Changes core modules at random places and runs their own tests. A change that no test notices
survives.

    python -m tests.support.mutants [--sample N] [--seed N] [MODULE ...]

Cosmic Ray makes the changes (https://cosmic-ray.readthedocs.io), in a copy of the repository, and
runs the tests. Two operators are added: one removes a statement; the other lets an exception pass,
which Cosmic Ray's own cannot where the exception has a dotted name. tests/mutants.md lists the
changes that may survive.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import TestOutcome
from parso.python.tree import Name

ROOT = Path(__file__).resolve().parents[2]
LISTED = ROOT / "tests" / "mutants.md"
SHARE = 0.95
"""How many of the changes that are not listed have to be noticed."""
LEAST_SECONDS = 20.0
"""What the tests of a changed module may take at least. A loop without end is cut."""
LEFT_OUT = {
    "core/ExceptionReplacer",  # LetPass stands in its place
    # These modules compare types, members of enums and their own objects by identity. No two of
    # them are equal.
    "core/ReplaceComparisonOperator_Is_Eq",
    "core/ReplaceComparisonOperator_IsNot_NotEq",
}
"""Cosmic Ray's operators that are not used."""

MODULES: dict[str, str] = {
    "usage/budgets": "usage/test_budgets.py usage/test_budgets_concurrency.py::"
    "test_a_keys_first_two_reservations_of_a_month_at_once_both_fit",
    "usage/estimates": "usage/test_estimates.py",
    "usage/journal": "usage/test_journal.py",
    "usage/prices": "usage/test_prices.py",
    "usage/rates": "usage/test_prices.py usage/test_usage_forms.py",
    "routing/circuit_breaker": "routing/test_circuit_breaker.py",
    "routing/router": "routing/test_router.py",
    "routing/attempt": "routing/test_router.py",
    "routing/slots": "routing/test_slots.py",
    "rate_limits/memory": "rate_limits/test_memory.py rate_limits/test_storages.py",
    "rate_limits/windows": "rate_limits/test_windows.py rate_limits/test_memory.py"
    " rate_limits/test_storages.py",
    "rate_limits/own_limits": "rate_limits/test_policy.py",
    "rate_limits/policy": "rate_limits/test_policy.py",
    "calls/idempotency": "calls/test_idempotency.py",
    "calls/idempotency_memory": "calls/test_idempotency.py",
    "logs/redaction": "logs/test_redaction.py",
    "accounts/tokens": "accounts/test_tokens.py",
    "accounts/principals": "accounts/test_api_keys.py accounts/test_limits.py"
    " accounts/test_sessions.py",
}
"""The modules, and their own tests."""

Position = tuple[int, int]


class RemoveStatement(Operator):
    """Replaces a call or an assignment to an attribute or item by `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """The statement's position, if it is such a one."""
        if node.type == "simple_stmt":
            statement = node.children[0]
            target = statement.children[0] if statement.type == "expr_stmt" else statement
            if target.type in ("atom_expr", "power"):
                yield statement.start_pos, statement.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node with `pass` instead."""
        node.children[0] = parso.parse(node.children[0].get_first_leaf().prefix + "pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """For Cosmic Ray's documentation."""
        return (Example("a.b()\n", "pass\n"),)


class LetPass(Operator):
    """Replaces an exception that is caught by a name that does not exist."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """The positions of the exceptions, if it is such a clause."""
        for caught in self._caught(node):
            yield caught.start_pos, caught.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The clause with another name."""
        caught = self._caught(node)[index]
        among, prefix = caught.parent.children, caught.get_first_leaf().prefix
        among[among.index(caught)] = Name("NoSuchException", caught.start_pos, prefix)
        return node

    def _caught(self, node: Any) -> list[Any]:
        if node.type != "except_clause":
            return []
        caught = node.children[1]
        if caught.type == "atom":  # in parentheses
            caught = caught.children[1]
        return list(caught.children[::2]) if caught.type == "testlist_comp" else [caught]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """For Cosmic Ray's documentation."""
        return (Example("try: a()\nexcept b.C: pass", "try: a()\nexcept NoSuchException: pass"),)


@dataclass(frozen=True)
class Change:
    """A change that an operator can make: the `occurrence`th in the module."""

    name: str
    operator: Operator
    occurrence: int


def changes_of(path: Path) -> dict[Position, list[Change]]:
    """By place, every change that a test could notice."""
    source = path.read_text()
    tree, spans = get_ast(source), list(unused_spans(source))
    operators = [get_operator(name) for name in operator_names() if name not in LEFT_OUT]
    found: dict[Position, list[Change]] = defaultdict(list)
    ours = (RemoveStatement(), LetPass())
    for operator in (*ours, *(one() for one in operators if not one.arguments())):
        positions = (
            (node, begin)
            for node in ast_nodes(tree)
            for begin, _ in operator.mutation_positions(node)
        )
        for occurrence, (node, place) in enumerate(positions):
            # `*` among parameters is no operator.
            unused = node.type == "operator" and node.parent.type == "parameters"
            if not (unused or any(begin <= tuple(place) < end for begin, end in spans)):
                change = Change(type(operator).__name__, operator, occurrence)
                found[tuple(place)].append(change)
    return found


def unused_spans(source: str) -> Iterator[tuple[Position, Position]]:
    """Where a change makes no difference to a test: annotations and imports for them, marks of
    abstract methods, caches, and what dataclasses save or guard."""
    for node in ast.walk(ast.parse(source)):
        unused: list[Any] = []
        if isinstance(node, ast.FunctionDef):
            marks = [
                mark for mark in node.decorator_list if is_named(mark, "abstract", "lru_cache")
            ]
            unused = [node.returns, *marks]
        elif isinstance(node, ast.ClassDef):
            data = [mark for mark in node.decorator_list if is_named(mark, "dataclass")]
            unused = [option.value for mark in data for option in getattr(mark, "keywords", ())]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            unused = [node.annotation]
        elif isinstance(node, ast.If) and is_named(node.test, "TYPE_CHECKING"):
            unused = [node]
        for item in filter(None, unused):
            # A decorator begins at its "@".
            yield (item.lineno, max(0, item.col_offset - 1)), (item.end_lineno, item.end_col_offset)


def is_named(node: ast.expr, *names: str) -> bool:
    """Whether an expression, or what it calls, is a name that begins so."""
    named = node.func if isinstance(node, ast.Call) else node
    return isinstance(named, ast.Name) and named.id.startswith(names)


def line_of(before: str, after: str) -> str:
    """`old line` → `new line`, as tests/mutants.md has it."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return " → ".join(f"`{' '.join(line.strip() for line in lines)}`" for lines in (old, new))


def sample_of(path: Path, sample: int, chance: random.Random) -> Iterator[Change]:
    """A change at each of `sample` places."""
    places = changes_of(path)
    for place in chance.sample(sorted(places), len(places)):
        if not sample:
            return
        good = [change for change in places[place] if is_python(path, change)]
        if good:
            sample -= 1
            yield chance.choice(good)


def is_python(path: Path, change: Change) -> bool:
    """Whether a change gives a program at all: few of `**` in a dict do."""
    changed = mutate_code(path.read_text(), change.operator, change.occurrence)
    with warnings.catch_warnings():
        # `is` with a number is one of the changes.
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(changed, path, "exec")
        except SyntaxError:
            return False
    return True


def survivors_of(module: str, sample: int, chance: random.Random) -> Iterator[str | None]:
    """Make a sample of changes in the copy at hand, one after the other, and yield those that
    survived. None: it was noticed."""
    path = Path("goblin_assistant") / f"{module}.py"
    tests = [name if name[0] == "-" else f"tests/{name}" for name in MODULES[module].split()]
    pytest = "-m pytest -x -q -p no:cacheprovider --hypothesis-seed=0"
    command = shlex.join([sys.executable, *pytest.split(), *tests])
    began = time.monotonic()
    outcome, output = run_tests(command, 600)
    if outcome is not TestOutcome.SURVIVED:
        sys.exit(f"{module}: its tests fail without a change\n{output}")
    limit = max(LEAST_SECONDS, 4 * (time.monotonic() - began))
    for change in sample_of(path, sample, chance):
        with use_mutation(path, change.operator, change.occurrence) as (before, after):
            outcome, _ = run_tests(command, limit)
        yield line_of(before, after) if outcome is TestOutcome.SURVIVED else None


def listed() -> set[str]:
    """What may survive: `module: old → new`, or `module: old` for any change of a line."""
    found, module = set(), ""
    for line in LISTED.read_text().splitlines():
        if line.startswith("## "):
            module = line[3:]
        elif match := re.match(r"- (`[^`]*`(?: → `[^`]*`)?): ", line):
            found.add(f"{module}: {match[1]}")
    return found


def copy_to(folder: Path) -> None:
    """Copy what git knows of the repository, and what is new."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def main() -> int:
    """Print the survivors and the share of changes that was noticed; 1 below 95 % in a module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=20, help="changes in each module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("modules", nargs="*", help=f"default: {' '.join(MODULES)}")
    asked = parser.parse_args()
    may_live, below = listed(), []
    with tempfile.TemporaryDirectory() as folder:
        copy_to(Path(folder))
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder
        for module in asked.modules or MODULES:
            chance = random.Random(f"{asked.seed} {module}")
            found = list(survivors_of(module, asked.sample, chance))
            alive = [line for line in found if line is not None]
            unlisted = [
                line
                for line in alive
                if may_live.isdisjoint({f"{module}: {line}", f"{module}: {line.split(' → ')[0]}"})
            ]
            made = len(found) - len(alive) + len(unlisted)
            noticed = made - len(unlisted)
            print(f"{module}: {noticed} of {made} noticed,", end=" ")
            print(
                f"{len(alive) - len(unlisted)} more may live", *unlisted, sep="\n    ", flush=True
            )
            if noticed < SHARE * made:
                below.append(module)
        os.chdir(ROOT)
    if below:
        print(f"below {SHARE:.0%}: {' '.join(below)}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
