"""python -m gameday: plays the faults and writes the report. Exits 1 when a promise is broken."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from gameday.faults import FAULTS, NOT_PLAYED, SHORT
from gameday.play import play
from gameday.report import as_json, as_markdown, as_svg
from gameday.stack import running

FACTOR, SHORT_FACTOR = 15.0, 60.0


def main() -> int:
    """The command line."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="python -m gameday", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="only this; repeat")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--output", type=Path, default=Path(".make/gameday"), help="a folder")
    options = parser.parse_args()
    chosen = options.only or (SHORT if options.short else names)
    factor = SHORT_FACTOR if options.short else FACTOR
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="gameday-", ignore_cleanup_errors=True) as folder,
        running(Path(folder), factor) as stack,
    ):
        for fault in FAULTS:
            if fault.name in chosen:
                outcomes.append(play(fault, stack))
                broken = outcomes[-1].broken
                print(f"{fault.name}: {'; '.join(broken) or 'kept'}", file=sys.stderr, flush=True)
    not_played = {} if options.only or options.short else NOT_PLAYED
    options.output.mkdir(parents=True, exist_ok=True)
    data = json.dumps(as_json(outcomes, not_played, factor), indent=2) + "\n"
    page = as_markdown(outcomes, not_played, factor, "gameday.svg")
    (options.output / "gameday.json").write_text(data)
    (options.output / "gameday.md").write_text(page)
    (options.output / "gameday.svg").write_text(as_svg(outcomes))
    print(page, end="")
    return int(any(one.broken for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
