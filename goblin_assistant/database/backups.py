"""When the last backup was complete, as the one who made it has noted."""

from __future__ import annotations

from pathlib import Path

NOTE = "backup_last_success"
"""The file in the instance folder: seconds since 1970, as text. Whatever makes the backups writes
it after each complete one."""


def last_backup(folder: Path) -> float | None:
    """The time in the note; None when there is none, or it cannot be read."""
    try:
        return float((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None
