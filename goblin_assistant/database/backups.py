"""When the last backup was complete, as the one who made it has noted."""

from __future__ import annotations

import os
from pathlib import Path

from goblin_assistant.config.folders import make_private

NOTE = "backup_last_success"
"""The file in the instance folder: seconds since 1970, as text. Whatever makes the backups writes
it after each complete one."""


def last_backup(folder: Path) -> float | None:
    """The time in the note; None when there is none, or it cannot be read."""
    try:
        return float((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None


def note_backup(folder: Path, seconds: float) -> None:
    """Write the note in one step: servers read it with every scrape. Raises OSError."""
    make_private(folder)
    path = folder / NOTE
    partial = path.with_name(f"{NOTE}.{os.getpid()}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{seconds:.0f}\n")
    partial.replace(path)
