"""Where settings come from: the environment, `.env`, files that these name, `goblin.toml`, the
development secret."""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from goblin_assistant.config.folders import make_private
from goblin_assistant.config.goblin_file import GoblinFile

_EMPTY_IS_A_VALUE = frozenset({"cors_origins"})
_NOT_OURS = ("GOBLIN_TEST_", "GOBLIN_LOADTEST")
"""Variables that the tests and the load test read."""


def read_variables(
    environ: Mapping[str, str] | None, dotenv: Path | None, names: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """All variables of `.env` and the environment, which wins, and a line for each problem.

    `names` are the variables of settings. `NAME_FILE` stands for NAME and names a file with its
    value, as secrets of Docker and Kubernetes come.
    """
    path = dotenv if dotenv is not None else Path(".env")
    from_file = dotenv_values(path) if path.is_file() else {}
    given = {name: value for name, value in from_file.items() if value is not None}
    variables: dict[str, str] = {}
    problems: list[str] = []
    for source in (given, os.environ if environ is None else environ):
        values, wrong = _read_value_files(source, names)
        variables |= values
        problems += wrong
    return variables, problems


def _read_value_files(
    source: Mapping[str, str], names: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The variables of one source with `NAME_FILE` replaced by NAME and the contents."""
    variables, problems = dict(source), []
    for variable, path in source.items():
        name = variable.removesuffix("_FILE")
        # GOBLIN_LOG_FILE is a setting itself; SSL_CERT_FILE is somebody else's.
        if name == variable or variable in names:
            continue
        if name not in names and not name.endswith("_API_KEY"):
            continue
        del variables[variable]
        if path == "":
            continue
        if source.get(name):
            problems.append(f"{name}: set, and {variable} too; keep one of them")
            continue
        try:
            # Editors and `echo` end a file with a newline.
            variables[name] = Path(path).read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            # Without the value: it may be the secret itself, by mistake.
            problems.append(f"{variable}: the file that it names cannot be read: {reason}")
    return variables, problems


def choose(
    variables: Mapping[str, str], overrides: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Attribute to value of what is set, and a line for each unknown name.

    `names` maps variables to attributes. `overrides` win; their keys may be either.
    """
    problems = [
        f"{name}: unknown setting" + _did_you_mean(name, names)
        for name in sorted(variables)
        if name.startswith("GOBLIN_") and name not in names and not name.startswith(_NOT_OURS)
    ]
    values: dict[str, Any] = {
        names[name]: value
        for name, value in variables.items()
        if name in names and (value != "" or names[name] in _EMPTY_IS_A_VALUE)
    }
    attributes = {*names.values(), "file"}
    for key, value in overrides.items():
        name = names.get(key, key)
        if name in attributes:
            values[name] = value
        else:
            problems.append(f"{key}: unknown setting" + _did_you_mean(key, names))
    return values, problems


def _did_you_mean(name: str, known: Mapping[str, str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def add_goblin_file(values: dict[str, Any]) -> list[str]:
    """Add the contents of goblin.toml, unless they are given, and its limits where no setting is;
    a line for each problem."""
    problems = [] if "file" in values else _read_goblin_file(values)
    file = values.get("file")
    if isinstance(file, GoblinFile):
        for name, text in file.limits.settings().items():
            values.setdefault(name, text)
    return problems


def _read_goblin_file(values: dict[str, Any]) -> list[str]:
    path = Path(values.get("config_file", "goblin.toml"))
    if not path.is_file():
        named = "config_file" in values
        return [f"GOBLIN_CONFIG_FILE: {path} does not exist"] if named else []
    try:
        values["file"] = GoblinFile.model_validate(tomllib.loads(path.read_text()))
    except ValidationError as error:
        return [
            f"{path} [{'.'.join(str(part) for part in item['loc'])}]: {item['msg']}"
            for item in error.errors()
        ]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [f"{path}: not TOML: {error}"]
    return []


def add_development_secret(values: dict[str, Any]) -> None:
    """Add a secret of the instance's own where development has none."""
    if values.get("env") == "development" and not values.get("secret_key"):
        folder = Path(values.get("instance_dir", "instance"))
        values["secret_key"] = _development_secret(folder)


def _development_secret(folder: Path) -> str:
    # In a file, so that tokens survive a restart. O_EXCL: two processes agree on one secret.
    make_private(folder)
    path = folder / "development_secret_key"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        secret = secrets.token_urlsafe(48)
        file.write(secret + "\n")
    return secret
