"""CPU and memory of counting limits in memory, from one caller to a million.

    python benchmarks/limit_storage.py [--theirs]

Compares our storage with the limits library's own. Prints microseconds of CPU per hit and resident
memory. The CPU is of all threads of the process, so the timer threads of limits' storage count too.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import threading
import time
from pathlib import Path

from limits.storage import MemoryStorage as TheirStorage

from goblin_assistant.rate_limits.memory import MemoryStorage

HITS = 100_000


def resident_mb() -> float:
    """Resident memory of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def cpu_per_hit(
    storage: MemoryStorage | TheirStorage, callers: int, hits: int, rate: float | None = None
) -> float:
    """Microseconds of CPU per hit, with `hits` spread over `callers` addresses.

    `rate` is in hits per second; None: as fast as possible.
    """
    chosen = [f"LIMITER/ip:{random.randrange(callers)}/general/100/1/minute" for _ in range(hits)]
    began_cpu, began = time.process_time(), time.monotonic()
    for number, key in enumerate(chosen):
        storage.acquire_entry(key, 100, 60)
        if rate is not None and number % 50 == 0:
            time.sleep(max(0.0, number / rate - (time.monotonic() - began)))
    return (time.process_time() - began_cpu) / hits * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--theirs",
        action="store_true",
        help="measure limits' own storage too, at 500 hits a second",
    )
    arguments = parser.parse_args()

    print(f"{'addresses':>10} {'us per hit':>11} {'keys held':>10} {'RSS MiB':>8}")
    for callers in (1, 100, 10_000, 100_000, 1_000_000):
        gc.collect()
        storage = MemoryStorage()
        cpu_per_hit(storage, callers, min(callers, HITS))
        spent = min(cpu_per_hit(storage, callers, HITS) for _ in range(3))
        print(f"{callers:>10,} {spent:>11.2f} {len(storage):>10,} {resident_mb():>8.0f}")

    storage = MemoryStorage()
    before = resident_mb()
    began = time.process_time()
    for number in range(1_000_000):
        storage.acquire_entry(f"LIMITER/ip:{number}/general/100/1/minute", 100, 60)
    print(
        f"1,000,000 distinct addresses once each: {time.process_time() - began:.1f} s of CPU, "
        f"{len(storage):,} keys held, RSS {before:.0f} -> {resident_mb():.0f} MiB"
    )

    if arguments.theirs:
        print(
            f"\nat 500 hits a second {'ours':>10} {'limits':>10}"
            "   (us of CPU per hit; threads alive after)"
        )
        for callers in (1, 10_000, 100_000):
            row = []
            for kind in (MemoryStorage, TheirStorage):
                counted = kind()
                cpu_per_hit(counted, callers, callers)
                row.append(cpu_per_hit(counted, callers, 5000, rate=500))
            print(f"{callers:>20,} {row[0]:>10.1f} {row[1]:>10.1f}   {threading.active_count()}")


if __name__ == "__main__":
    main()
