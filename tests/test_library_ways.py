"""Where the code overrides a library's method or uses one of its private members.

docs/adr/0014-speed-without-tricks.md has a row for each. A new one needs a row too, and these tests
fail when a library drops or changes what they name.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest
import waitress.utilities
from flask.json.provider import JSONProvider

from goblin_assistant.providers.upstream import client, connections, response_head
from goblin_assistant.server import channel, listener, parser, tasks, workers
from goblin_assistant.web import json_requests
from tests.conftest import ROOT

OVERRIDES: dict[type, set[str]] = {
    channel.Channel: {
        *("__init__", "cancel", "error_task_class", "handle_close", "handle_read"),
        *("handle_write", "readable", "received", "service", "task_class"),
        *("writable", "write_soon"),
    },
    listener.Listener: {
        *("__init__", "accept", "channel_class", "handle_accept", "maintenance", "readable"),
    },
    parser.RequestParser: {"__init__", "close", "parse_header", "received"},
    tasks.ApplicationTask: {"build_response_header", "execute", "write"},
    tasks.RefusedTask: {"execute"},
    workers.WorkerPool: {"__init__", "add_task", "handler_thread", "set_thread_count"},
    connections.TrackedConnection: {"_new_conn", "connect"},
    connections.TrackedTLSConnection: {"_new_conn", "connect"},
    connections.TrackedPool: {"ConnectionCls", "QueueCls"},
    connections.TrackedTLSPool: {"ConnectionCls", "QueueCls"},
    response_head.QuickResponse: {"_read_status", "begin"},
    response_head.ResponseHead: {"__init__", "get", "get_payload", "items"},
    client._Adapter: {"init_poolmanager"},
    json_requests.Request: {"get_json"},
}
CALLED = {(connections.TrackedPool, "_get_conn"), (connections.TrackedPool, "_put_conn")}
"""Private methods that we call and do not override."""
LIBRARIES = {
    "email",
    "flask",
    "http",
    "prometheus_client",
    "requests",
    "urllib3",
    "waitress",
    "werkzeug",
}

DECISION = (ROOT / "docs/adr/0014-speed-without-tricks.md").read_text()


def of_the_library(ours: type, name: str) -> Any:
    """What `ours` would have under this name without our code. None if nothing."""
    for base in ours.__mro__:
        if base.__module__.partition(".")[0] in LIBRARIES and name in vars(base):
            return vars(base)[name]
    return None


class Plain:
    """What the statement `class` makes of nothing."""


def overridden(ours: type) -> set[str]:
    mine = [base for base in ours.__mro__ if base.__module__.startswith("goblin_assistant")]
    names = {name for base in mine for name in vars(base)}
    # What Python itself puts into every class.
    names -= vars(Plain).keys()
    names -= {"__abstractmethods__", "__annotations__", "_abc_impl"}
    return {name for name in names if of_the_library(ours, name) is not None}


def subclasses() -> set[type]:
    """Every class of ours below a class of these libraries, but for their errors and the documented
    JSON provider."""
    found: set[type] = set()
    modules = (channel, listener, parser, tasks, workers, client, connections, response_head)
    for module in (*modules, json_requests):
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and value.__module__ == module.__name__
                and any(base.__module__.partition(".")[0] in LIBRARIES for base in value.__mro__)
                and not issubclass(value, (Exception, waitress.utilities.Error, JSONProvider))
            ):
                found.add(value)
    return found


def test_every_subclass_of_a_librarys_class_is_known() -> None:
    assert subclasses() == set(OVERRIDES)


@pytest.mark.parametrize("ours", OVERRIDES, ids=lambda ours: ours.__name__)
def test_every_override_is_known_and_the_library_still_calls_it_so(ours: type) -> None:
    assert overridden(ours) == OVERRIDES[ours]
    for name in OVERRIDES[ours] - {"__init__"}:
        theirs, mine = of_the_library(ours, name), inspect.getattr_static(ours, name)
        if inspect.isfunction(theirs) and inspect.isfunction(mine):
            inspect.signature(mine).bind(*inspect.signature(theirs).parameters)


def test_every_override_and_private_member_has_a_row_in_the_decision() -> None:
    names = {name for members in OVERRIDES.values() for name in members} - {"__init__"}
    names |= {name for _, name in CALLED}
    assert {name for name in names if f"`{name}`" not in DECISION} == set()


def test_the_private_methods_that_we_call_are_there() -> None:
    assert [name for owner, name in CALLED if not callable(getattr(owner, name, None))] == []


def test_no_other_private_member_and_no_hook_list_is_used() -> None:
    own, used = set(), set()
    for path in (ROOT / "goblin_assistant").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute):
                mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                (own if mine and isinstance(node.ctx, ast.Store) else used).add(node.attr)
    private = {name for name in used if re.match("_[a-z]", name)}
    assert private - own == {"_exit", "_replace"}  # of os and of named tuples: documented
    hooks = {f"{when}_request_funcs" for when in ("before", "after", "teardown")}
    assert used & hooks == set()
