"""The load test's last verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning

_DAY = 86400.0
_OLD_DAYS = 30


def load_test(context: Context) -> Iterator[Finding]:
    """The load test has passed, at most 30 days ago."""
    path = context.load_test
    again = "Run the load test against staging and give its file: --load-test FILE."
    try:
        verdict = json.loads(path.read_text())
        passed = verdict["passed"] is True
        host, scenario = str(verdict["host"]), str(verdict["scenario"])
        days = (time.time() - datetime.fromisoformat(verdict["finished_at"]).timestamp()) / _DAY
        missed = [row["title"] for row in verdict["targets"] if row["result"] != "pass"]
    except OSError:
        yield warning("load test", f"there is no verdict in {path}", again)
        return
    except (ValueError, KeyError, TypeError):
        yield failure("load test", f"{path} is not a verdict of the load test", again)
        return
    shown = f"{scenario} against {host}, {days:.0f} days ago"
    if not passed:
        what = ", ".join(missed) or "it could not measure"
        yield failure("load test", f"failed: {what}; {shown}", "Read docs/load-testing.md.")
    elif days > _OLD_DAYS:
        yield warning("load test", f"passed, but is old: {shown}", again)
    elif scenario != "targets":
        yield warning(
            "load test",
            f"passed, but did not check the guide's rates: {shown}",
            "Run it with --scenario targets.",
        )
    else:
        yield ok("load test", f"passed: {shown}")
