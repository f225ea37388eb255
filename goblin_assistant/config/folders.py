"""Folders that only the server's own user may read."""

from __future__ import annotations

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder with mode 0700 and, with the same mode, the missing ones above it, whatever the
    umask is. One that exists stays as it is. Raises OSError."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
