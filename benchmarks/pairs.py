"""CPU of a chat in two checkouts of the product, side by side.

    python -m benchmarks.pairs BEFORE AFTER [--kind "chat, API key"] [--pairs 20]

BEFORE and AFTER are directories that hold a checkout. Each pair starts both servers anew, because
one process differs from the next by several percent, and measures them one after the other, in
turned order every second time. The result is the ratio AFTER / BEFORE: the median over the pairs,
and a 95 % interval of it from resampled pairs (bootstrap).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import compare, native, servers
from benchmarks.results import Sample

ROOT = Path(__file__).resolve().parent.parent
RESAMPLES = 10_000
WARM_UP_SECONDS = 0.7
KINDS = ("chat", "chat, API key", "stream", "echo", "health")


def interval(ratios: Sequence[float], *, seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of the median of `ratios`, by the percentiles of resampled medians."""
    rng = random.Random(seed)
    medians = sorted(
        statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)
    )
    return medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1]


def one_pair(
    settings: compare.Settings,
    trees: Sequence[Path],
    upstream: int,
    number: int,
    options: argparse.Namespace,
) -> float:
    """Start both servers, measure each, stop both. Returns AFTER's CPU divided by BEFORE's.

    Raises RuntimeError when a request failed.
    """
    cpu: dict[int, float] = {}
    order = (0, 1) if number % 2 == 0 else (1, 0)
    with tempfile.TemporaryDirectory(prefix="goblin-pairs-") as folder:
        for which in order:
            server = servers.goblin(
                upstream,
                Path(folder),
                settings.server_core,
                name=f"tree{which}",
                PYTHONPATH=str(trees[which]),
            )
            with server:
                request = servers.goblin_requests(servers.register(server.port))[options.kind]
                task = compare.Task(f"tree{which}", server, options.kind, request)
                compare.measure(settings, task, options.concurrency, 0, WARM_UP_SECONDS, None)
                result = compare.Comparison()
                compare.measure(
                    settings, task, options.concurrency, number, options.seconds, result
                )
                server.resume()
            if result.problems:
                raise RuntimeError("; ".join(result.problems))
            sample: Sample = result.samples[0]
            cpu[which] = sample.cpu_us
    compare.say(f"pair {number + 1}: {cpu[0]:.0f} us, {cpu[1]:.0f} us, ratio {cpu[1] / cpu[0]:.3f}")
    return cpu[1] / cpu[0]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="chat, API key")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--cache", type=Path, default=ROOT / ".make" / "bench")
    return parser.parse_args()


def main() -> int:
    """Print the ratio and its interval."""
    options = arguments()
    cache = options.cache.resolve()
    native.build(cache)
    settings = compare.Settings(cache=cache, litellm_venv=None, with_litellm=False)
    trees = (options.before.resolve(), options.after.resolve())
    with native.upstream(
        cache,
        chunks=compare.STREAM_CHUNKS,
        interval_us=compare.STREAM_INTERVAL_US,
        core=settings.load_core,
    ) as upstream:
        ratios = [
            one_pair(settings, trees, upstream, number, options) for number in range(options.pairs)
        ]
    low, high = interval(ratios)
    print(
        f"{options.kind}, {options.concurrency} connections, {options.pairs} pairs: "
        f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
