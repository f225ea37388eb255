"""goblin-assistant doctor: runs the checklist and prints it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from goblin_assistant.commands.doctor.checklist import Section, findings
from goblin_assistant.commands.doctor.context import LOAD_TEST, Context
from goblin_assistant.commands.doctor.findings import SEVERITY, Finding, failure, in_words
from goblin_assistant.config import Config, ConfigError
from goblin_assistant.providers import build_registry
from goblin_assistant.routing.targets import check_routes

_CONFIGURATION = Section(None, "Configuration", ())
_MARKS = {"ok": "ok  ", "warning": "WARN", "failure": "FAIL"}


@click.command()
@click.option("--url", help="Look from outside too: the proxy's address, or an instance's.")
@click.option("--http-url", help="The proxy's address without TLS. [default: http://HOST of --url]")
@click.option(
    "--key",
    envvar="DOCTOR_API_KEY",
    show_envvar=True,
    help="An API key, to see what a caller sees through --url.",
)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The authority that signed the certificate of --url, if no public one did.",
)
@click.option("--stream-model", help="The model to measure streams with. [default: an echo row]")
@click.option(
    "--load-test",
    type=click.Path(dir_okay=False, path_type=Path),
    default=LOAD_TEST,
    show_default=True,
    help="The load test's verdict.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool, **options: Any) -> None:
    """Run the deployment checklist: the production guide's ten items, and what it leaves out.

    Each line is ok, a warning or a failure with its fix. Exits 1 when something fails, else 0.
    """
    counts: Counter[str] = Counter()
    kept = []
    last: Section | None = None
    for section, finding in _findings(options):
        counts[finding.verdict] += 1
        if as_json:
            kept.append(_as_json(section, finding))
            continue
        if section is not last:
            click.echo(_heading(section, first=last is None))
            last = section
        _print(finding)
    if as_json:
        click.echo(json.dumps({"ready": not counts["failure"], "findings": kept}, indent=2))
    else:
        click.echo(_summary(counts))
    raise SystemExit(1 if counts["failure"] else 0)


def _findings(options: dict[str, Any]) -> Iterable[tuple[Section, Finding]]:
    try:
        config = Config.load()
        registry = build_registry(config)
        try:
            check_routes(config.file, registry)
        finally:
            registry.close()
    except ConfigError as error:
        return _all_of(error.problems)
    except OSError as error:
        # In development, loading creates a secret in the instance folder.
        where = f"{error.filename}: " if error.filename else ""
        return [
            (
                _CONFIGURATION,
                failure(
                    "configuration",
                    f"{where}{in_words(error)}",
                    "Give that file or folder to the server's user, or set GOBLIN_INSTANCE_DIR.",
                ),
            )
        ]
    url = options.pop("url")
    http_url = options.pop("http_url")
    return findings(
        Context(
            config,
            url=url.rstrip("/") if url else None,
            http_url=http_url.rstrip("/") if http_url else None,
            **options,
        )
    )


def _all_of(problems: list[str]) -> Iterator[tuple[Section, Finding]]:
    for problem in problems:
        yield (
            _CONFIGURATION,
            failure(
                "configuration", problem, "Correct it; docs/configuration.md has every setting."
            ),
        )


def _heading(section: Section, *, first: bool) -> str:
    number = f"{section.number}. " if section.number is not None else ""
    return f"{'' if first else chr(10)}{number}{section.title}"


def _print(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.verdict]}  {finding.subject:<16} {finding.message}")
    if finding.fix:
        click.echo(f"{'':<23}-> {finding.fix}")


def _summary(counts: Counter[str]) -> str:
    worst = max((SEVERITY[verdict] for verdict in SEVERITY if counts[verdict]), default=0)
    said = ["all well", "it will run; think about the warnings", "not ready for production"][worst]
    return (
        f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['failure']} failures: {said}"
    )


def _as_json(section: Section, finding: Finding) -> dict[str, Any]:
    return {
        "item": section.number,
        "section": section.title,
        "verdict": finding.verdict,
        "subject": finding.subject,
        "message": finding.message,
        "fix": finding.fix,
    }
