"""python -m gameday: plays the faults and writes the report. Exits 1 when a promise is broken."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from pathlib import Path

from gameday.faults import FAULTS, SHORT, Fault
from gameday.play import Outcome, play, promise_of
from gameday.report import as_json, as_markdown, as_svg
from gameday.stack import Stack, running

FACTOR, SHORT_FACTOR = 30.0, 60.0


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
    chosen_faults = [fault for fault in FAULTS if fault.name in chosen]
    not_played = {one.name: why for one in chosen_faults if (why := one.missing())}
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="gameday-", ignore_cleanup_errors=True) as folder,
        running(Path(folder), factor, small_disk="disk_full" in chosen) as stack,
    ):
        for fault in chosen_faults:
            if fault.name not in not_played:
                outcomes.append(_played(fault, stack))
                broken = outcomes[-1].broken
                print(f"{fault.name}: {'; '.join(broken) or 'kept'}", file=sys.stderr, flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    data = json.dumps(as_json(outcomes, not_played, factor), indent=2) + "\n"
    page = as_markdown(outcomes, not_played, factor, "gameday.svg")
    (options.output / "gameday.json").write_text(data)
    (options.output / "gameday.md").write_text(page)
    (options.output / "gameday.svg").write_text(as_svg(outcomes))
    print(page, end="")
    return int(any(one.broken for one in outcomes))


def _played(fault: Fault, stack: Stack) -> Outcome:
    """What was seen. A fault that cannot be made, mended or counted leaves the others' report."""
    try:
        return play(fault, stack)
    except Exception as error:
        # Without the message, which may be an instance's whole log.
        print("".join(traceback.format_tb(error.__traceback__)[-5:]), file=sys.stderr)
        outcome = Outcome(fault.name, promise_of(fault.name))
        outcome.broken = [f"could not be played: {type(error).__name__}: {str(error)[:200]}"]
        return outcome


if __name__ == "__main__":
    sys.exit(main())
