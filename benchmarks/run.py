"""`make bench` or `python -m benchmarks.run [--quick]`.

Measures, prints the verdict and writes docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import compare, installation, machine, native, page, report, rows, scale, servers

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
KINDS = rows.KINDS
ALL = ("compare", *scale.EXPERIMENTS)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few minutes, to see that everything works; writes no page",
    )
    parser.add_argument(
        "--only",
        default="",
        help=f"comma-separated, out of {', '.join(ALL)}; the others keep their last results",
    )
    parser.add_argument(
        "--kinds", default="", help=f"of compare: comma-separated, out of {', '.join(KINDS)}"
    )
    parser.add_argument("--rounds", type=int, help="of compare")
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".make" / "bench",
        help="compiled programs, LiteLLM, results",
    )
    parser.add_argument(
        "--litellm-venv",
        type=Path,
        help="a virtual environment that has litellm[proxy]; default: one in the cache",
    )
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument(
        "--python",
        help="an interpreter that has the product's requirements, for the product and the bare "
        "functions; default: an environment in the cache with nothing else",
    )
    parser.add_argument(
        "--server-core",
        type=int,
        default=0,
        help="the core that every server is pinned to; -1: none",
    )
    parser.add_argument(
        "--load-core", type=int, default=1, help="the core of client and upstream; -1: none"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--no-page", action="store_true", help="measure and print only")
    parser.add_argument(
        "--render",
        action="store_true",
        help="measure nothing, write the page from the last results",
    )
    return parser.parse_args()


def main() -> int:
    """Run; the exit code is 0 even when a target is missed, because the page reports it."""
    options = arguments()
    cache: Path = options.cache.resolve()
    stored = cache / ("quick.json" if options.quick else "results.json")
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    _check(options, results)
    if not options.render:
        native.build(cache)
        servers.PYTHON = options.python or installation.python(cache)
        _measure(options, cache, results)
        stored.write_text(json.dumps(results, indent=1))
    text = report.page(results)
    print(report.verdict(results))
    partial = [name for name in ALL if name not in results]
    if options.kinds and not options.render:
        partial.append(f"other kinds than {options.kinds}")
    if options.quick or options.no_page:
        compare.say(f"figures in {stored}; no page written")
    elif partial and options.page == PAGE:
        compare.say(
            f"figures in {stored}; {PAGE.name} stays as it is, because these were not measured: "
            f"{', '.join(partial)} (--page FILE writes the others)"
        )
    else:
        old = options.page.read_text() if options.page.exists() else ""
        options.page.write_text(page.with_sections_of(text, old))
        compare.say(f"wrote {options.page}")
    return 0


def _check(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Exit with an error before anything is built or measured."""
    for name, accepted in (("only", ALL), ("kinds", KINDS)):
        if unknown := set(filter(None, getattr(options, name).split(","))) - set(accepted):
            sys.exit(
                f"--{name}: unknown: {', '.join(sorted(unknown))}; there are {', '.join(accepted)}"
            )
    if options.rounds is not None and options.rounds < 1:
        sys.exit("--rounds: at least 1")
    if options.render and not results:
        sys.exit("--render: nothing has been measured here yet; run without it first")
    if options.litellm_venv is not None and not (options.litellm_venv / "bin" / "litellm").exists():
        sys.exit(f"--litellm-venv {options.litellm_venv}: there is no bin/litellm in it")


def _measure(options: argparse.Namespace, cache: Path, results: dict[str, Any]) -> None:
    chosen = [name for name in options.only.split(",") if name] or list(ALL)
    quick: dict[str, Any] = (
        {"rounds": 1, "seconds": 1.0, "stream_seconds": 1.0, "starts": 1} if options.quick else {}
    )
    if options.rounds:
        quick["rounds"] = options.rounds
    if options.kinds:
        quick["kinds"] = frozenset(options.kinds.split(","))
    settings = compare.Settings(
        cache=cache,
        litellm_venv=options.litellm_venv,
        with_litellm=not options.without_litellm,
        server_core=options.server_core if options.server_core >= 0 else None,
        load_core=options.load_core if options.load_core >= 0 else None,
        **quick,
    )
    about = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": machine.revision(ROOT),
        "load_average": machine.load_average(),
    }
    results["machine"] = machine.describe()
    if settings.with_litellm:
        results["machine"]["litellm"] = servers.litellm_version(
            servers.litellm_venv(cache, options.litellm_venv)
        )
    if "compare" in chosen:
        comparison = compare.run(settings)
        results["compare"] = {
            "about": {**about, "rounds": settings.rounds, "seconds": settings.seconds},
            "samples": report.samples_as_dicts(comparison.samples),
            "figures": comparison.figures,
            "problems": comparison.problems,
        }
    for name, experiment in (scale.QUICK if options.quick else scale.EXPERIMENTS).items():
        if name in chosen:
            compare.say(f"experiment: {name}")
            figures, checks = experiment(settings)
            compare.say(scale.describe(figures))
            results[name] = {
                "about": about,
                "figures": figures,
                "checks": report.checks_as_dicts(checks),
            }


if __name__ == "__main__":
    sys.exit(main())
