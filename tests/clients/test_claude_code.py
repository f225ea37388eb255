"""Claude Code, unmodified, where the loopback interface is the only network."""

from __future__ import annotations

from pathlib import Path

from tests.clients.alone import run_alone


def test_claude_code_answers_calls_tools_and_compacts(tmp_path: Path) -> None:
    run_alone(Path(__file__).parent / "claude_code", tmp_path, passed=4)
