"""How these tests run a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding
from goblin_assistant.config import Config

SECRET = "kP3vX9qLzT7wR2mB8nY4cJ6hD5fG1sAeUoIxQ0tZ"
PRODUCTION = {"env": "production", "secret_key": SECRET}

MakeContext = Callable[..., Context]


@pytest.fixture
def context(tmp_path: Path) -> MakeContext:
    """`context(instances=3, url="http://...")`: a context; what is no field of it is a setting."""

    def make(environ: dict[str, str] | None = None, **values: Any) -> Context:
        fields = set(Context.__dataclass_fields__)
        settings = {name: value for name, value in values.items() if name not in fields}
        given = {"instance_dir": tmp_path / "instance", **PRODUCTION, **settings}
        config = Config.load(given, environ=environ or {}, dotenv=tmp_path / "absent.env")
        more = {name: value for name, value in values.items() if name in fields}
        return Context(config, **{"dotenv": tmp_path / ".env", **more})

    return make


def only(findings: Any) -> Finding:
    """The only finding of a check."""
    found = list(findings)
    assert len(found) == 1, found
    assert isinstance(found[0], Finding)
    return found[0]


def verdict(findings: Any) -> str:
    """The only finding's verdict; a fault has its fix in a sentence."""
    found = only(findings)
    assert (found.fix == "") == (found.verdict == "ok"), found
    return found.verdict
