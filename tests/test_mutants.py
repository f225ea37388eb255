"""The list of changes that may survive names lines that exist."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_every_line_of_the_list_of_mutants_is_a_line_of_its_module() -> None:
    listed = re.findall(
        r"^(?:## (\S+)$|- `([^`]*)`)", (ROOT / "tests/mutants.md").read_text(), re.M
    )
    module, source, checked = "", "", 0
    for heading, line in listed:
        if heading:
            module = heading
            source = (ROOT / "goblin_assistant" / f"{module}.py").read_text()
        else:
            checked += 1
            # A statement of several lines is listed as one.
            assert " ".join(line.split()) in " ".join(source.split()), f"{module}: {line}"
    assert checked
