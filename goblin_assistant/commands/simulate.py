"""goblin-assistant simulate: a simulated provider, as slow and faulty as its options say."""

from __future__ import annotations

import logging
from typing import Any, get_args

import click

from goblin_assistant.providers.echo.simulation import FaultKind, SimulationOptions


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8900,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on.",
)
@click.option(
    "--threads",
    default=64,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Answers at once.",
)
@click.option(
    "--model", "models", multiple=True, help="A model's id; repeat for several. [default: echo]"
)
@click.option(
    "--latency",
    default="0",
    show_default=True,
    help="Seconds until an answer begins: 0.4, uniform:0.1,0.5, normal:0.4,0.1, "
    "lognormal:0.4,0.3 (median, sigma), exponential:0.4.",
)
@click.option(
    "--ttft", help="The same for streams only: time to the first token. [default: as --latency]"
)
@click.option(
    "--tokens-per-second",
    default=0.0,
    type=click.FloatRange(0),
    help="How fast tokens come; 0: all at once.",
)
@click.option(
    "--tokens",
    help="Length of answers in tokens, a number or distribution. [default: the text is echoed]",
)
@click.option(
    "--error-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of calls that fail.",
)
@click.option(
    "--error-kind",
    "error_kinds",
    multiple=True,
    type=click.Choice(get_args(FaultKind)),
    help="How; repeat. [default: bad_response]",
)
@click.option(
    "--retry-after",
    type=click.FloatRange(0),
    help="Seconds that rate_limited and overloaded tell to wait.",
)
@click.option("--seed", type=int, help="The same requests in the same order meet the same fate.")
def simulate(host: str, port: int, threads: int, models: tuple[str, ...], **options: Any) -> None:
    """Serve a simulated OpenAI-compatible provider, for load tests.

    \b
    goblin-assistant simulate --latency lognormal:0.4,0.3 --tokens-per-second 50 --tokens 120
    curl http://127.0.0.1:8900/v1/chat/completions -H 'Content-Type: application/json' \\
         -d '{"model": "echo", "messages": [{"role": "user", "content": "hello"}]}'
    """
    import waitress
    from pydantic import ValidationError

    from goblin_assistant.providers.base import Model
    from goblin_assistant.providers.echo.provider import ECHO_MODEL, EchoProvider
    from goblin_assistant.providers.echo.simulator import MAX_BODY_BYTES, Simulator
    from goblin_assistant.web.request_body import field_name, from_problems

    try:
        chosen = SimulationOptions.model_validate(
            {k: v for k, v in options.items() if v not in (None, ())}
        )
    except ValidationError as error:
        problems = from_problems(
            (f"--{field_name(item['loc']).replace('_', '-')}", item["msg"])
            for item in error.errors(include_url=False)
        )
        raise click.UsageError(problems.message) from None
    if not all(models):
        raise click.UsageError("--model: a model has a name")
    provider = EchoProvider(
        "simulator", chosen, models=[Model(m, ECHO_MODEL.capabilities) for m in models] or None
    )
    # Streams break on purpose here, and waitress would log a traceback for each.
    logging.getLogger("waitress").setLevel(logging.CRITICAL)
    try:
        server = waitress.create_server(
            Simulator(provider),
            host=host,
            port=port,
            threads=threads,
            channel_request_lookahead=1,
            connection_limit=4 * threads + 100,
            max_request_body_size=MAX_BODY_BYTES,
        )
    except (OSError, ValueError) as error:
        # waitress raises ValueError for a host that cannot be found.
        reason = getattr(error, "strerror", None) or error
        raise click.ClickException(f"cannot listen on {host}:{port}: {reason}") from None
    click.echo(f"Simulated provider at http://{host}:{server.effective_port}/v1  (Ctrl-C stops it)")
    try:
        server.run()
    finally:
        server.close()
