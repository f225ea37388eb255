"""What an instance exports about its folder, read at each scrape."""

from __future__ import annotations

import shutil
from pathlib import Path

from goblin_assistant.database.backups import last_backup
from goblin_assistant.metrics import (
    backup_last_success_timestamp_seconds,
    instance_disk_free_bytes,
    instance_disk_size_bytes,
)


def export(folder: Path) -> None:
    """Export the disk's space and the last backup's time."""
    instance_disk_free_bytes.set_function(lambda: _space(folder)[0])
    instance_disk_size_bytes.set_function(lambda: _space(folder)[1])
    backup_last_success_timestamp_seconds.set_function(lambda: last_backup(folder))


def _space(folder: Path) -> tuple[float | None, float | None]:
    """Free bytes and size of the disk; None when it cannot be asked."""
    for path in (folder, *folder.parents):  # the folder is made with the first file in it
        try:
            usage = shutil.disk_usage(path)
        except FileNotFoundError:
            continue
        except OSError:
            break
        return usage.free, usage.total
    return None, None
