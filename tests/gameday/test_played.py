"""The short form: five faults played on a real deployment.

It says what was lost and who was told, never how fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gameday.faults import FAULTS, SHORT
from gameday.play import play
from gameday.stack import Stack, running
from tests.support.services import find_binary

FACTOR = 60.0
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    for program in ("redis-server", "nginx", "openssl", "prometheus", "prometheus-alertmanager"):
        find_binary(program)
    with running(tmp_path_factory.mktemp("gameday"), FACTOR) as made:
        yield made


@pytest.mark.parametrize("name", SHORT)
def test_a_fault_costs_what_is_promised_and_tells_whom_it_concerns(stack: Stack, name: str) -> None:
    fault = BY_NAME[name]
    outcome = play(fault, stack)
    assert outcome.lost <= fault.most_lost, outcome.lost_lines
    assert (outcome.rows_lost, outcome.rows_doubled) == (0, 0)
    assert outcome.requests > outcome.failed
    assert outcome.recovered_at is not None
    assert outcome.page == {} or outcome.paged_at is not None, outcome.alerts
