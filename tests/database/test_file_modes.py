"""Only the owner may read what an instance keeps."""

from __future__ import annotations

import stat
from pathlib import Path

from sqlalchemy import create_engine, text

from goblin_assistant.database.engine import engine_options


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_sqlites_files_are_private_also_those_of_an_earlier_release(tmp_path: Path) -> None:
    path = tmp_path / "goblin.db"
    for _ in range(2):
        url = f"sqlite:///{path}"
        engine = create_engine(url, **engine_options(url, 2))
        try:
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS t (x)"))
                files = sorted(tmp_path.glob("goblin.db*"))
                assert path in files
                assert {mode(file) for file in files} == {0o600}
        finally:
            engine.dispose()
        path.chmod(0o644)


def test_a_new_instance_folder_is_private(tmp_path: Path) -> None:
    from goblin_assistant import create_app
    from goblin_assistant.config import Config
    from tests.conftest import close_app

    folder = tmp_path / "new" / "instance"
    app = create_app(Config.load({"env": "development", "instance_dir": folder}, environ={}))
    try:
        assert mode(folder) == 0o700
    finally:
        close_app(app)
