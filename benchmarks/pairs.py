"""CPU of a request in several checkouts of the product, side by side.

    python -m benchmarks.pairs BEFORE AFTER [AFTER ...] [--kind "chat, API key"] [--pairs 20]

BEFORE and each AFTER are directories that hold a checkout; a folder's name is the row's. Each round
starts every server anew, because one process differs from the next by several percent. It measures
them in short slices, in a new order each time, while the others are paused: so they see the same
noise of the machine. The result is the ratio AFTER / BEFORE within a round: the median
over the rounds, and a 95 % interval of it from resampled rounds (bootstrap).

`--results FILE` adds the rounds to FILE and prints the table of all that it holds, so that twenty
rounds can come from several short runs. `--pairs 0` only prints.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks import compare, fleet, native, rows, servers
from benchmarks.results import Sample

ROOT = Path(__file__).resolve().parent.parent
RESAMPLES = 10_000
WARM_UP_SECONDS = 0.7
SLICES = 6
KINDS = (rows.TOKEN, rows.KEY, rows.LIMITED, "stream", "echo", "health")
Figure = Literal["cpu", "p95"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured. Only rounds of one setting are compared."""

    kind: str
    concurrency: int
    idle: int
    shape: native.Shape
    before: str

    def text(self) -> str:
        """As a heading."""
        idle = f", {self.idle} idle connections" if self.idle else ""
        return (
            f"{self.kind}, {self.concurrency} connections{idle}, "
            f"upstream {self.shape}, against {self.before}"
        )


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured, by the tree's name: CPU in microseconds per request (kind "stream":
    per event), and the 95th percentile of the time for a request in milliseconds."""

    setting: Setting
    cpu: dict[str, float]
    p95: dict[str, float]


def interval(ratios: Sequence[float], *, seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of the median of `ratios`, by the percentiles of resampled medians."""
    rng = random.Random(seed)
    medians = sorted(
        statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)
    )
    return medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1]


def table(rounds: Sequence[Round], figure: Figure = "cpu") -> str:
    """One row for each setting and tree: the ratio to BEFORE, its interval, and the pairs."""
    lines = []
    for setting in dict.fromkeys(found.setting for found in rounds):
        ratios: dict[str, list[float]] = {}
        for found in rounds:
            values_of = found.cpu if figure == "cpu" else found.p95
            if found.setting == setting:
                for name, value in values_of.items():
                    ratios.setdefault(name, []).append(value / values_of[setting.before])
        lines.append(setting.text())
        for name, values in ratios.items():
            if name != setting.before:
                low, high = interval(values)
                lines.append(
                    f"  {name}: {statistics.median(values):.3f} ({low:.3f} to {high:.3f}), "
                    f"{len(values)} pairs"
                )
    return "\n".join(lines)


def load(path: Path) -> list[Round]:
    """The rounds in a results file; none if there is no file."""
    if not path.exists():
        return []
    return [
        Round(Setting(**raw["setting"]), raw["cpu"], raw["p95"])
        for raw in json.loads(path.read_text())
    ]


def save(path: Path, rounds: Sequence[Round]) -> None:
    """Write a results file."""
    path.write_text(json.dumps([asdict(found) for found in rounds], indent=1) + "\n")


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Hold `count` connections to the server open without a request."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


def one_round(
    settings: compare.Settings,
    setting: Setting,
    trees: Mapping[str, Path],
    upstream: int,
    number: int,
    seconds: float,
) -> Round:
    """Start every server, measure them in slices, stop them. Raises RuntimeError when a request
    failed."""
    result = compare.Comparison()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-pairs-")))
        tasks = [
            stack.enter_context(_running(settings, setting, name, trees[name], upstream, folder))
            for name in trees
        ]
        for task in tasks:
            compare.measure(settings, task, setting.concurrency, 0, WARM_UP_SECONDS, None)
        for _ in range(SLICES):
            # Shuffled: a server that always follows the same other one finds the same caches.
            random.shuffle(tasks)
            for task in tasks:
                compare.measure(
                    settings, task, setting.concurrency, number, seconds / SLICES, result
                )
    if result.problems:
        raise RuntimeError("; ".join(result.problems))
    samples = {name: [s for s in result.samples if s.server == name] for name in trees}
    cpu = {name: _cpu(found) for name, found in samples.items()}
    p95 = {name: statistics.median(s.p95 for s in found) for name, found in samples.items()}
    shown = ", ".join(f"{name} {us:.0f}" for name, us in cpu.items())
    compare.say(f"round {number + 1}: {shown} us")
    return Round(setting, cpu, p95)


@contextmanager
def _running(
    settings: compare.Settings,
    setting: Setting,
    name: str,
    tree: Path,
    upstream: int,
    folder: Path,
) -> Iterator[compare.Task]:
    """A server that is paused, with the request to send."""
    server = servers.goblin(upstream, folder, settings.server_core, name=name, PYTHONPATH=str(tree))
    with server, idle_connections(server.port, setting.idle):
        request = fleet.requests_of("goblin", server.port, [setting.kind])[setting.kind]
        server.pause()
        yield compare.Task(name, server, setting.kind, request)


def _cpu(samples: Sequence[Sample]) -> float:
    """The CPU of a request over several samples of one length."""
    return sum(s.cpu_us * s.rate for s in samples) / sum(s.rate for s in samples)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="+")
    parser.add_argument("--kind", choices=KINDS, default="chat, API key")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each server")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--idle", type=int, default=0, help="further open connections")
    parser.add_argument("--shape", choices=get_args(native.Shape), default="providers")
    parser.add_argument("--figure", choices=get_args(Figure), default="cpu")
    parser.add_argument("--results", type=Path, help="a JSON file that collects rounds")
    parser.add_argument("--cache", type=Path, default=ROOT / ".make" / "bench")
    return parser.parse_args()


def main() -> int:
    """Measure, and print the ratios with their intervals."""
    options = arguments()
    trees = {path.resolve().name: path.resolve() for path in (options.before, *options.after)}
    if len(trees) != 1 + len(options.after):
        sys.exit("the checkouts' folders need different names")
    setting = Setting(
        options.kind, options.concurrency, options.idle, options.shape, next(iter(trees))
    )
    cache = options.cache.resolve()
    native.build(cache)
    settings = compare.Settings(cache=cache, litellm_venv=None, with_litellm=False)
    rounds = load(options.results) if options.results else []
    first = sum(found.setting == setting for found in rounds)
    with native.upstream(
        cache,
        chunks=compare.STREAM_CHUNKS,
        interval_us=compare.STREAM_INTERVAL_US,
        core=settings.load_core,
        shape=setting.shape,
    ) as upstream:
        for number in range(first, first + options.pairs):
            rounds.append(one_round(settings, setting, trees, upstream, number, options.seconds))
            if options.results:  # after each, so that a run that is stopped keeps its rounds
                save(options.results, rounds)
    print(table(rounds, options.figure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
