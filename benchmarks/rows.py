"""What a comparison measures: a row for each kind of request to each server."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("chat", "postgres", "lean", "unpinned", "echo", "stream", "health", "login")
"""Groups of rows, by which a run can be cut in parts."""

LEAN, UNPINNED, POSTGRES = ", lean upstream", ", two cores", ", PostgreSQL"
"""Ends of a row's kind: it is compared with a baseline of the same end, PostgreSQL's with none."""

TOKEN, KEY = "chat", "chat, API key"
LIMITED = "chat, budget and limits"
CALLERS = "chat, 1,000 callers"


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of request to a process, in the table under `server`.

    `process` is a name in fleet.py, `request` a name of its requests: as a rule the kind.
    """

    group: str
    server: str
    kind: str
    process: str
    concurrencies: tuple[int, ...] = (32,)
    request: str = ""


ROWS = (
    Row("chat", "bare", TOKEN, "bare", (1, 32, 128)),
    Row("chat", "bare http.client", TOKEN, "bare http.client"),
    Row("chat", "goblin", TOKEN, "goblin"),
    Row("chat", "goblin", KEY, "goblin", (1, 32, 128)),
    Row("chat", "goblin", LIMITED, "goblin"),
    Row("chat", "goblin", CALLERS, "goblin"),
    Row("postgres", "goblin", KEY + POSTGRES, "goblin, PostgreSQL", request=KEY),
    Row("postgres", "goblin", LIMITED + POSTGRES, "goblin, PostgreSQL", request=LIMITED),
    Row("chat", "litellm", TOKEN, "litellm", (1, 32)),
    Row("lean", "bare", TOKEN + LEAN, "bare, lean", request=TOKEN),
    Row("lean", "bare http.client", TOKEN + LEAN, "bare http.client, lean", request=TOKEN),
    Row("lean", "goblin", KEY + LEAN, "goblin, lean", request=KEY),
    Row("unpinned", "bare", TOKEN + UNPINNED, "bare, unpinned", request=TOKEN),
    Row("unpinned", "bare http.client", TOKEN + UNPINNED, "bare http.client, unpinned",
        request=TOKEN),
    Row("unpinned", "goblin", KEY + UNPINNED, "goblin, unpinned", request=KEY),
    Row("unpinned", "litellm", TOKEN + UNPINNED, "litellm, unpinned", request=TOKEN),
    Row("echo", "goblin", "echo", "goblin"),
    Row("stream", "bare", "stream", "bare", (32, 128)),
    Row("stream", "bare http.client", "stream", "bare http.client"),
    Row("stream", "goblin", "stream", "goblin", (32, 128)),
    Row("stream", "litellm", "stream", "litellm"),
    Row("health", "bare flask", "health", "bare flask"),
    Row("health", "goblin", "health", "goblin"),
    Row("health", "litellm", "health", "litellm"),
    Row("login", "bare login", "login", "bare login", (8,)),
    Row("login", "goblin", "login", "goblin", (8,)),
)  # fmt: skip


def chosen(groups: frozenset[str], *, with_litellm: bool, with_postgres: bool) -> tuple[Row, ...]:
    """The rows of these groups whose servers there are."""
    return tuple(
        row
        for row in ROWS
        if row.group in groups
        and (with_litellm or row.server != "litellm")
        and (with_postgres or row.group != "postgres")
    )


def in_order(rows: tuple[Row, ...]) -> list[tuple[Row, int]]:
    """A round: rows of one group and concurrency follow each other, so that a ratio is of
    neighbours. PostgreSQL's stand among the chats, whose baseline they share."""
    levels = sorted({level for row in rows for level in row.concurrencies})
    return [(row, level) for level in levels for row in rows if level in row.concurrencies]
