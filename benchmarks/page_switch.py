"""CPU of a chat with the page switched on and off.

    python -m benchmarks.page_switch                    # 20 rounds; about two minutes

Each round starts two servers anew, one with GOBLIN_PAGE=true and one with false, on one core, and
measures them in short slices in a new order, while the other has nothing to do. Clients and
provider have the other core. The page of the first has been opened before: its files are in memory.
The ratio is taken within the round; the median over the rounds counts, with the 95 % interval of
benchmarks/pairs.py.

`--results FILE` collects rounds, so that twenty can come from several short runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import fleet, installation, native, rows, servers
from benchmarks.instances import APP_CORE, LOAD_CORE, TRIES, WARM_UP_SECONDS, ChatFailed, measure
from benchmarks.pairs import interval
from benchmarks.processes import Server

ROOT = Path(__file__).resolve().parent.parent
SLICES = 4
SIDES = ("on", "off")


@dataclass(frozen=True, slots=True)
class Round:
    """CPU in microseconds a chat, with the page on and off."""

    cpu: dict[str, float]


def text_of(rounds: Sequence[Round]) -> str:
    """A sentence: both medians, their ratio, and its interval."""
    ratios = [one.cpu["on"] / one.cpu["off"] for one in rounds]
    low, high = interval(ratios)
    on, off = (statistics.median(one.cpu[side] for one in rounds) for side in SIDES)
    same = low <= 1 <= high
    return (
        f"A chat takes {on:.0f} us of CPU with the page and {off:.0f} us without it: "
        f"{statistics.median(ratios):.3f} times ({low:.3f} to {high:.3f}), {len(rounds)} pairs. "
        + ("No difference within the run's interval." if same else "They DIFFER.")
    )


def one_round(
    cache: Path, group: Mapping[str, Server], requests: Mapping[str, bytes], seconds: float
) -> Round:
    """Slices of both, in a new order each time. Raises ChatFailed."""
    for side in SIDES:
        measure(cache, [group[side]], requests[side], WARM_UP_SECONDS)
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(SLICES):
        for side in random.sample(SIDES, len(SIDES)):
            cpu = measure(cache, [group[side]], requests[side], seconds / SLICES)
            taken[side].append(cpu * 1e6)
    return Round({side: statistics.median(values) for side, values in taken.items()})


def _round_of_new_servers(cache: Path, upstream: int, seconds: float) -> Round:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-page-")))
        group = {
            side: stack.enter_context(
                servers.goblin(
                    upstream, folder, APP_CORE, name=side, GOBLIN_PAGE=str(side == "on").lower()
                )
            )
            for side in random.sample(SIDES, len(SIDES))
        }
        with urllib.request.urlopen(f"http://127.0.0.1:{group['on'].port}/") as answer:
            assert b"Goblin Assistant" in answer.read()
        requests: dict[str, bytes] = {}
        for side, server in group.items():
            request = fleet.requests_of("goblin", server.port, [rows.KEY])[rows.KEY]
            assert isinstance(request, bytes)
            requests[side] = request
        for _ in range(TRIES - 1):
            try:
                return one_round(cache, group, requests, seconds)
            except ChatFailed as error:
                print(f"measured again, {error}", file=sys.stderr, flush=True)
        return one_round(cache, group, requests, seconds)


def load(path: Path | None) -> list[Round]:
    """The rounds in a results file; none if there is no file."""
    if path is None or not path.exists():
        return []
    return [Round(raw["cpu"]) for raw in json.loads(path.read_text())]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page_switch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="0 only prints")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each server in a round")
    parser.add_argument("--results", type=Path, help="a JSON file that collects rounds")
    parser.add_argument("--cache", type=Path, default=ROOT / ".make" / "bench")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    options = arguments()
    rounds = load(options.results)
    if options.rounds:
        cache = options.cache.resolve()
        native.build(cache)
        servers.PYTHON = installation.python(cache)
        with native.upstream(
            cache,
            chunks=fleet.STREAM_CHUNKS,
            interval_us=fleet.STREAM_INTERVAL_US,
            core=LOAD_CORE,
        ) as upstream:
            for _ in range(options.rounds):
                rounds.append(_round_of_new_servers(cache, upstream, options.seconds))
                shown = ", ".join(f"{side} {us:.0f} us" for side, us in rounds[-1].cpu.items())
                print(shown, file=sys.stderr, flush=True)
                if options.results:
                    raw = json.dumps([asdict(one) for one in rounds], indent=1)
                    options.results.write_text(raw + "\n")
    print(text_of(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
