"""The files of ops/prometheus, and promtool."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.services import find_binary

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
PROMETHEUS = OPS / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.rules.yml"))
GROUPS: list[dict[str, Any]] = [
    group for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"]
]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

KEYWORDS = {"and", "or", "unless", "bool"}


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """promtool's result, whatever its exit code."""
    return subprocess.run(
        [find_binary("promtool"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def promtool(*arguments: str) -> str:
    """What promtool prints; it has to succeed."""
    done = run_promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_and_labels(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of a PromQL expression, with the labels that its selector names."""
    found = re.findall(r"\b([A-Za-z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?", _bare(expression))
    for name, selector in found:
        if name not in KEYWORDS:
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def grouping_labels(expression: str) -> set[str]:
    """The labels that an expression adds up by or matches on."""
    lists = re.findall(r"\b(?:by|on|ignoring|without|group_left)\s*\(([^)]*)\)", expression)
    return {label.strip() for names in lists for label in names.split(",") if label.strip()}


def _bare(expression: str) -> str:
    """Without label lists, ranges and the contents of strings."""
    expression = re.sub(r'"[^"]*"', '""', expression)
    expression = re.sub(
        r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", expression
    )
    expression = re.sub(r"\[[^\]]*\]|\boffset \w+", " ", expression)
    return re.sub(r"\b\d[\w.]*", " ", expression)


def recordings_behind(expression: str) -> set[str]:
    """The recordings that an expression rests on, and those that these rest on."""
    found = {name for name, _ in names_and_labels(expression)} & RECORDED
    for rule in RULES:
        if rule.get("record") in found:
            found |= recordings_behind(rule["expr"])
    return found


def metrics_behind(expression: str) -> set[str]:
    """The exported metrics that an expression rests on, through recordings."""
    found: set[str] = set()
    for name, _ in names_and_labels(expression):
        if name in RECORDED:
            for rule in RULES:
                if rule.get("record") == name:
                    found |= metrics_behind(rule["expr"])
        else:
            found.add(name)
    return found
