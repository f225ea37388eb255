"""The command `goblin-assistant`."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import click

from goblin_assistant.config import Config, ConfigError
from goblin_assistant.errors import AppError
from goblin_assistant.version import __version__

COMMANDS = {
    "backup": "backup",
    "db": "database",
    "doctor": "doctor.command",
    "explain": "explain",
    "keys": "keys",
    "prove": "prove.command",
    "report": "report",
    "restore": "backup",
    "simulate": "simulate",
    "usage": "usage",
    "users": "users",
}
"""Command, which is also the name of its function -> its module in `commands`."""


class _LazyGroup(click.Group):
    """Imports a command's module when the command is called, and all of them for `--help`.

    `serve` needs none of them: they would cost it 0.1 s and 10 MB.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"goblin_assistant.commands.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="goblin-assistant")
def cli() -> None:
    """Goblin Assistant: a chat backend that an operator can trust in production."""


@cli.command()
@click.option("--host", help="Address to listen on. [default: GOBLIN_HOST]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on. [default: GOBLIN_PORT]"
)
def serve(host: str | None, port: int | None) -> None:
    """Serve until SIGTERM, then finish what is running."""
    from goblin_assistant import create_app
    from goblin_assistant.server import serve as server

    given: dict[str, Any] = {"host": host, "port": port}
    config = Config.load({name: value for name, value in given.items() if value is not None})
    app = create_app(config)
    if not config.production:
        # On standard error: standard output has one JSON object per line.
        click.echo(_NEXT_STEPS.format(url=f"http://{config.host}:{config.port}"), err=True)
    raise SystemExit(server.serve(app, config))


_NEXT_STEPS = """
Goblin Assistant is starting on {url} with the embedded provider `echo`; \
the API's own pages are at {url}/docs
Next, in another terminal:

  curl -s {url}/auth/register -H 'Content-Type: application/json' \\
       -d '{{"email": "you@example.com", "password": "correct horse"}}'

and go on with the five-minute tour in README.md. Ctrl-C stops the server.
"""


@cli.command("config")
@click.option("--env-example", is_flag=True, help="Print .env.example instead.")
@click.option("--table", is_flag=True, help="Print the table of docs/configuration.md instead.")
def show_config(env_example: bool, table: bool) -> None:
    """Print every setting as it is in force, secrets redacted, and check goblin.toml's names."""
    from goblin_assistant.config import docs
    from goblin_assistant.providers import build_registry
    from goblin_assistant.routing.targets import check_routes

    if env_example:
        click.echo(docs.env_example(), nl=False)
    elif table:
        click.echo(docs.table(), nl=False)
    else:
        config = Config.load()
        for name, value in config.redacted().items():
            if isinstance(value, list):
                value = json.dumps(value)
            click.echo(f"{name}={'' if value is None else value}")
        registry = build_registry(config)
        try:
            check_routes(config.file, registry)
        finally:
            registry.close()


def main() -> None:
    """The console script. Exits 2 for a bad configuration, 1 for an AppError, with the message."""
    try:
        cli()
    except ConfigError as error:
        click.echo(f"goblin-assistant: {error}", err=True)
        sys.exit(2)
    except AppError as error:
        click.echo(f"goblin-assistant: {error}", err=True)
        sys.exit(1)
