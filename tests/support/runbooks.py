"""The runbooks of ops/runbooks: their blocks of commands, and what each is said to show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.alert_rules import OPS

FOLDER = OPS / "runbooks"
PAGES = {page.stem: page for page in sorted(FOLDER.glob("*.md")) if page.stem != "README"}
SITE = re.compile(r"^```sh site\n(.*?)^```$", re.S | re.M)
BLOCK = re.compile(r"^```sh\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """Commands, and lines of their output; `…` in a line stands for anything."""

    commands: str
    shows: list[str]

    def missing(self, output: str) -> list[str]:
        """The lines that the output does not have."""
        lines = output.splitlines()
        return [
            wanted
            for wanted in self.shows
            if not any(
                re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), line.strip())
                for line in lines
            )
        ]


def site_block(page: Path) -> str:
    """The page's commands that say where instances and logs are."""
    (block,) = SITE.findall(page.read_text())
    return str(block)


def blocks(page: Path) -> list[Block]:
    """The page's commands for the diagnosis."""
    return [
        Block(commands, [line for line in shows.splitlines() if line])
        for commands, shows in BLOCK.findall(page.read_text())
    ]
