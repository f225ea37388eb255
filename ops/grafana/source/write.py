"""python -m ops.grafana.source.write: write the dashboards' JSON."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from ops.grafana.source.boards import BOARDS
from ops.grafana.source.panels import Board

FOLDER = Path(__file__).parent.parent / "dashboards"


def as_json(board: Board) -> str:
    """A dashboard's file."""
    text = json.dumps(board.build().build(), cls=JSONEncoder, indent=2, sort_keys=True)
    return text + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(as_json(board))
