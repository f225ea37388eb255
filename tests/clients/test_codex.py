"""Codex, unmodified, where the loopback interface is the only network."""

from __future__ import annotations

from pathlib import Path

from tests.clients.alone import run_alone


def test_codex_answers_calls_tools_and_goes_on(tmp_path: Path) -> None:
    run_alone(Path(__file__).parent / "codex", tmp_path, passed=6, large=True)
