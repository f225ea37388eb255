"""The command `goblin-assistant`: its commands are imported when they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from goblin_assistant.__main__ import NO_THREAD_CACHES, TUNABLES
from goblin_assistant.cli import COMMANDS, cli
from goblin_assistant.config import ConfigError
from tests.conftest import ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_found_under_its_name(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name


def test_help_lists_every_command_with_what_it_does() -> None:
    lines = (
        CliRunner().invoke(cli, ["--help"]).output.partition("Commands:")[2].strip().splitlines()
    )
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert set(listed) == {*COMMANDS, "serve", "config"}


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["sevre"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def test_serving_loads_nothing_that_only_commands_and_options_need(tmp_path: Path) -> None:
    """With the default settings: no Redis, no PostgreSQL, current tables."""
    code = (
        "import sys\n"
        "import goblin_assistant.cli, goblin_assistant.server.serve\n"
        "from goblin_assistant import create_app\n"
        "create_app({'env': 'development', 'instance_dir': sys.argv[1]})\n"
        "unwanted = ('redis', 'psycopg', 'alembic', 'opentelemetry', 'pydantic_settings',\n"
        "            'email_validator', 'jwt', 'cryptography')\n"
        "print(*[name for name in unwanted if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == ""


def test_serve_loads_hardly_anything_before_it_executes_itself_once_more() -> None:
    code = (
        "import sys\n"
        "import goblin_assistant.__main__\n"
        "print(*[name for name in ('typing', 'datetime', 'logging') if name in sys.modules])\n"
    )
    done = subprocess.run(
        # -S: what lies in site-packages may import anything.
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == ""


def test_no_garbage_is_collected_while_the_servers_modules_are_imported() -> None:
    code = (
        "import gc, sys\n"
        "from goblin_assistant.__main__ import main\n"
        "collections = lambda: sum(one['collections'] for one in gc.get_stats())\n"
        "gc.collect()\n"
        "before = collections()\n"
        "sys.argv = ['goblin-assistant', 'serve', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    print('collections:', collections() - before, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        # With it set, the program does not execute itself once more.
        env={**os.environ, TUNABLES: NO_THREAD_CACHES},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "Serve until SIGTERM" in done.stdout
    assert done.stderr.strip() == "collections: 0"


def test_config_lists_the_settings_and_what_is_wrong_with_goblin_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    (tmp_path / "goblin.toml").write_text('[aliases]\nfast = "absent/m"\n')
    result = CliRunner().invoke(cli, ["config"])
    assert "GOBLIN_ENV=development" in result.output
    assert isinstance(result.exception, ConfigError)  # the console script's exit code 2
    assert "there is no provider 'absent'" in str(result.exception)
    (tmp_path / "goblin.toml").write_text('[aliases]\nfast = "echo/echo"\n')
    assert CliRunner().invoke(cli, ["config"]).exit_code == 0
