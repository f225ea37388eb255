"""The command: tests each promise and prints the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import requests

from goblin_assistant.commands.doctor.findings import in_words
from goblin_assistant.commands.prove import (
    alert,
    budget,
    correlation,
    disconnect,
    drain,
    idempotency,
    limits,
    streams,
)
from goblin_assistant.commands.prove.deployment import (
    MODEL,
    PACED_MODEL,
    CannotStart,
    Deployment,
    open_deployment,
)
from goblin_assistant.commands.prove.verdicts import (
    Broken,
    NotTried,
    Seen,
    Verdict,
    as_json,
    as_markdown,
    exit_code,
)

NAMES = (
    "correlation", "streams", "idempotency", "budget", "disconnect", "alert", "drain", "limits",
)  # fmt: skip
"""In the order of the tests. `limits` is last, because it uses up the key's minute."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and its test."""

    name: str
    sentence: str
    attempt: Callable[[], Seen]


class Prices(click.ParamType):
    """US dollars per million tokens of prompt and answer. The value: micro-dollars."""

    name = "input,output"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Two whole numbers."""
        from decimal import Decimal, InvalidOperation

        if isinstance(value, tuple):
            return value  # type: ignore[return-value]
        try:
            prompt, answer = (int(Decimal(part).scaleb(6)) for part in value.split(","))
        except (ValueError, InvalidOperation, OverflowError):
            self.fail(f"{value!r}: accepted: two prices such as 1,2 or 0.15,0.6", param, ctx)
        return prompt, answer


class Address(click.ParamType):
    """`HOST:PORT`, or `PORT` on all addresses."""

    name = "host:port"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Host and port."""
        if isinstance(value, tuple):
            return value  # type: ignore[return-value]
        host, _, port = value.rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            self.fail(f"{value!r}: accepted: HOST:PORT or PORT", param, ctx)
        return host, int(port)


@click.command()
@click.option("--url", required=True, help="The address that clients use: the proxy's.")
@click.option(
    "--key",
    required=True,
    envvar="PROVE_API_KEY",
    show_envvar=True,
    help="An API key made for this; docs/prove.md says how.",
)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The authority that signed the certificate of --url, if no public one did.",
)
@click.option("--model", default=MODEL, show_default=True, help="An echo that answers at once.")
@click.option(
    "--paced-model", default=PACED_MODEL, show_default=True, help="An echo that takes its time."
)
@click.option("--prices", type=Prices(), help="Of both, US dollars per million tokens: 1,2.")
@click.option("--drain", "drain_command", help="Your rolling restart, tried under load.")
@click.option("--alertmanager", help="Alertmanager's address, to post a test alert to.")
@click.option("--listen", type=Address(), help="Where Alertmanager's notification will arrive.")
@click.option(
    "--alert-seconds",
    default=120.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="How long the notification may take.",
)
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Only this; repeat.")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON, not Markdown.")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write prove.md and prove.json into this folder too.",
)
def prove(json_wanted: bool, save: Path | None, only: tuple[str, ...], **options: Any) -> None:
    """Try the product's promises on a running deployment.

    Exits 0 when every promise that was tried is kept, 1 when one is broken, 2 when nothing could
    be tried.
    """
    ca_file = options["ca_file"]
    deployment = Deployment(
        options["url"].rstrip("/"),
        options["key"],
        str(ca_file) if ca_file is not None else True,
        options["model"],
        options["paced_model"],
    )
    began = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        if set(only) != {"alert"}:
            open_deployment(deployment)
    except CannotStart as reason:
        click.echo(f"goblin-assistant prove: {reason}", err=True)
        raise SystemExit(2) from None
    verdicts = []
    for promise in _promises(deployment, options):
        if not only or promise.name in only:
            verdicts.append(attempt(promise))
            click.echo(f"{verdicts[-1].word:<10} {verdicts[-1].promise}", err=True)
    page = as_markdown(deployment.url, began, verdicts)
    data = json.dumps(as_json(deployment.url, began, verdicts), indent=2) + "\n"
    click.echo(data if json_wanted else page, nl=False)
    if save is not None:
        _write(save, page, data)
    raise SystemExit(exit_code(verdicts))


def _write(folder: Path, page: str, data: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prove.md").write_text(page)
        (folder / "prove.json").write_text(data)
    except OSError as error:
        click.echo(f"goblin-assistant prove: --save {folder}: {in_words(error)}", err=True)


def _promises(deployment: Deployment, options: dict[str, Any]) -> Iterator[Promise]:
    attempts: dict[str, tuple[str, Callable[[], Seen]]] = {
        "correlation": (correlation.PROMISE, partial(correlation.correlation, deployment)),
        "streams": (streams.PROMISE, partial(streams.streams, deployment)),
        "idempotency": (idempotency.PROMISE, partial(idempotency.idempotency, deployment)),
        "budget": (budget.PROMISE, partial(budget.budget, deployment, options["prices"])),
        "disconnect": (disconnect.PROMISE, partial(disconnect.disconnect, deployment)),
        "alert": (
            alert.PROMISE,
            partial(
                alert.alert, options["alertmanager"], options["listen"], options["alert_seconds"]
            ),
        ),
        "drain": (drain.PROMISE, partial(_drain, deployment, options["drain_command"])),
        "limits": (limits.PROMISE, partial(limits.limits, deployment)),
    }
    for name in NAMES:
        yield Promise(name, *attempts[name])


def _drain(deployment: Deployment, command: str | None) -> Seen:
    if not command:
        raise NotTried("it needs --drain COMMAND, your rolling restart")
    return drain.drain(deployment, command)


def attempt(promise: Promise) -> Verdict:
    """Test a promise. Every error becomes a verdict."""
    began = time.monotonic()

    def verdict(word: Any, text: str, figures: dict[str, Any] | None = None) -> Verdict:
        seconds = time.monotonic() - began
        return Verdict(promise.name, promise.sentence, word, text, seconds, figures or {})

    try:
        seen = promise.attempt()
    except NotTried as reason:
        return verdict("not tried", str(reason))
    except Broken as fault:
        return verdict("broken", str(fault))
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        return verdict("broken", f"a request was answered {status}")
    except requests.RequestException as error:
        return verdict("broken", in_words(error))
    except Exception as error:
        return verdict("broken", f"the attempt broke off: {in_words(error)}")
    return verdict("kept", seen.text, seen.figures)
