"""The game day names a promise for each fault, counts what was lost, and says so."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from gameday.faults import FAULTS, NOT_PLAYED, SHORT
from gameday.load import ECHO, PROVIDER, Sent
from gameday.play import PROMISES, Outcome, promise_of
from gameday.report import as_json, as_markdown, as_svg

BY_NAME = {fault.name: fault for fault in FAULTS}


def sent(result: str, model: str = ECHO, tidy: bool = True) -> Sent:
    return Sent("a", model, 0.0, 1.0, result, tidy)


def test_every_fault_has_a_promise_and_every_promise_a_fault() -> None:
    names = re.findall(r"^\| (\w+): [^|]*\|", PROMISES.read_text(), re.M)
    assert names
    assert set(names) == set(BY_NAME)
    assert all(promise_of(name) for name in names)


def test_the_short_form_plays_five_faults() -> None:
    assert len(SHORT) == 5
    assert set(SHORT) <= set(BY_NAME)
    assert not set(NOT_PLAYED) & set(BY_NAME)


def test_every_failed_request_counts_unless_the_promise_excuses_it() -> None:
    down = [sent("502 provider_connection_failed", PROVIDER), sent("200")]
    assert len(BY_NAME["rolling_restart"].lost(down)) == 1
    assert BY_NAME["provider_down"].lost(down) == []


def test_an_ill_provider_excuses_neither_other_models_nor_untidy_failures() -> None:
    lost = BY_NAME["provider_down"].lost
    assert len(lost([sent("502 provider_connection_failed", ECHO)])) == 1
    assert len(lost([sent("ConnectionError", PROVIDER, tidy=False)])) == 1


@pytest.fixture
def outcomes() -> list[Outcome]:
    good = Outcome("rolling_restart", "no request is lost", requests=2, mended_at=2.0)
    good.timeline = [(-1.0, True), (1.0, True)]
    bad = Outcome("redis_gone", "no request is lost", requests=2, failed=1, lost=1, mended_at=1.0)
    bad.timeline = [(0.5, False), (1.5, True)]
    bad.broken = ["1 requests lost, at most 0"]
    return [good, bad]


def test_the_report_names_the_broken_promise(outcomes: list[Outcome]) -> None:
    page = as_markdown(outcomes, {"clock": "not here"}, 15, "plot.svg")
    assert "1 broke a promise" in page
    assert "**broken**: 1 requests lost, at most 0" in page
    assert "`clock`: not here" in page
    assert as_json(outcomes, {}, 15)["kept"] is False
    assert as_json(outcomes[:1], {}, 15)["kept"] is True


def test_the_plot_is_a_picture_with_a_row_for_each_fault(outcomes: list[Outcome]) -> None:
    picture = ET.fromstring(as_svg(outcomes))
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["rolling_restart", "redis_gone"]
    assert 'fill="#c33"' in as_svg(outcomes)
