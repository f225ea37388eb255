"""The load test's percentiles, verdict and schedule."""

from __future__ import annotations

import json

import pytest

from loadtest.run import highest
from loadtest.schedule import place
from loadtest.verdict import TARGETS, Recorder, Tally, as_text, judge


def recorded(**targets: list[float]) -> Recorder:
    """A recorder with successful answers of these milliseconds."""
    recorder = Recorder()
    for target, times in targets.items():
        for milliseconds in times:
            recorder.note(target, target, milliseconds, "ok")
    return recorder


def good(**others: list[float]) -> Recorder:
    """A recorder that meets every target's percentile."""
    return recorded(
        **{"health": [5.0] * 100, "chat": [400.0] * 100, "login": [60.0] * 100, **others}
    )


class TestPercentile:
    def test_is_the_smallest_time_that_covers_the_share(self) -> None:
        tally = recorded(health=[float(n) for n in range(1, 101)]).tallies["health"]
        assert tally.percentile(0.95) == 95.0
        assert tally.percentile(0.50) == 50.0

    def test_of_one_answer_is_that_answer(self) -> None:
        assert recorded(health=[7.3]).tallies["health"].percentile(0.95) == 7.3

    def test_of_nothing_is_none(self) -> None:
        assert Tally().percentile(0.95) is None

    def test_keeps_a_tenth_of_a_millisecond_where_locust_rounds_to_two_digits(self) -> None:
        assert recorded(login=[499.94]).tallies["login"].percentile(0.95) == 499.9


class TestVerdict:
    def test_passes_when_every_percentile_is_below_its_bound(self) -> None:
        verdict = judge(good(), TARGETS, 10.0, check_rate=False)
        assert verdict.passed
        assert verdict.exit_code == 0
        assert [row.result for row in verdict.rows] == ["pass", "pass", "pass"]

    def test_a_percentile_at_its_bound_is_a_miss(self) -> None:
        verdict = judge(good(health=[100.0] * 100), TARGETS, 10.0, check_rate=False)
        assert verdict.exit_code == 1
        assert verdict.rows[0].result == "MISSED"
        assert "p95 is 100.0 ms; it has to stay below 100 ms" in verdict.rows[0].why

    def test_five_slow_answers_in_a_hundred_do_not_miss_it_and_six_do(self) -> None:
        fine = judge(good(health=[5.0] * 95 + [900.0] * 5), TARGETS, 10.0, check_rate=False)
        slow = judge(good(health=[5.0] * 94 + [900.0] * 6), TARGETS, 10.0, check_rate=False)
        assert fine.passed
        assert not slow.passed

    def test_the_rate_counts_only_where_it_was_set_out_to_be_reached(self) -> None:
        assert judge(good(), TARGETS, 60.0, check_rate=False).passed
        verdict = judge(good(), TARGETS, 60.0, check_rate=True)
        assert [row.result for row in verdict.rows] == ["MISSED"] * 3

    def test_a_reached_rate_passes_and_its_multiple_does_not(self) -> None:
        recorder = good(health=[5.0] * 1000, login=[60.0] * 200)
        assert judge(recorder, TARGETS, 10.0, check_rate=True).passed
        assert not judge(recorder, TARGETS, 10.0, check_rate=True, multiple=2.0).passed

    def test_answers_of_429_are_no_failures_and_no_measurements(self) -> None:
        recorder = good()
        for _ in range(50):
            recorder.note("login", "login", 1.0, "limited")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.passed
        assert (verdict.rows[2].measured, verdict.rows[2].limited) == (100, 50)
        assert verdict.rows[2].p50 == 60.0
        assert "RATELIMIT_ENABLED=false" in as_text(verdict)

    def test_a_run_of_mostly_429s_says_so_first(self) -> None:
        recorder = recorded(health=[5.0] * 10, chat=[5.0], login=[5.0])
        for count in range(1, 14):
            recorder.note("health", "health_check", 1.0, "limited")
            notes = judge(recorder, TARGETS, 10.0, check_rate=False).notes
            assert notes[0].startswith("This run measured 429s") == (count > 12)

    def test_only_429s_are_not_a_pass(self) -> None:
        recorder = recorded(health=[5.0], chat=[5.0])
        recorder.note("login", "login", 1.0, "limited")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.rows[2].result == "NOT MEASURED"
        assert "every answer was a 429" in verdict.rows[2].why
        assert verdict.exit_code == 1

    def test_a_row_with_failures_does_not_pass(self) -> None:
        recorder = good()
        recorder.note("health", "health_check", 3.0, "failed")
        row = judge(recorder, TARGETS, 10.0, check_rate=False).rows[0]
        assert (row.result, row.why) == ("MISSED", "1 requests failed.")

    @pytest.mark.parametrize(("answers", "result"), [(198, "pass"), (197, "MISSED")])
    def test_a_rate_may_lack_the_requests_at_both_ends(self, answers: int, result: str) -> None:
        recorder = recorded(login=[60.0] * answers)
        assert judge(recorder, TARGETS[2:], 10.0, check_rate=True).rows[0].result == result

    def test_a_failed_request_without_a_target_fails_the_run(self) -> None:
        recorder = good()
        recorder.note(None, "get_settings", 3.0, "failed")
        verdict = judge(recorder, TARGETS, 10.0, check_rate=False)
        assert verdict.exit_code == 1
        assert verdict.notes[0] == "1 requests failed: get_settings 1."

    def test_what_workers_measured_adds_up(self) -> None:
        master, worker = Recorder(), good()
        worker.note("chat", "chat_completion", 1.0, "failed")
        message = json.loads(json.dumps(worker.take()))
        master.add(message)
        master.add(good().take())
        assert master.tallies["chat"].measured == 200
        assert master.failures == {"chat_completion": 1}
        assert not worker.tallies

    def test_the_text_shows_bounds_and_ends_with_the_verdict(self) -> None:
        text = as_text(judge(good(), TARGETS, 10.0, check_rate=True))
        assert ">= 100" in text
        assert "< 2000" in text
        assert text.endswith("Verdict: FAIL")


class TestSchedule:
    @pytest.mark.parametrize("users", [1, 6, 20, 30, 31])
    def test_places_are_spread_evenly(self, users: int) -> None:
        places = sorted(place(number) for number in range(users))
        assert all(abs(found - index / users) * users < 2.1 for index, found in enumerate(places))


class TestHighestMultiple:
    @pytest.mark.parametrize("limit", [1.0, 1.25, 1.5, 3.75, 7.0])
    def test_finds_the_last_step_that_holds(self, limit: float) -> None:
        assert highest(lambda multiple: multiple <= limit) == limit

    def test_is_zero_when_the_targets_do_not_hold(self) -> None:
        assert highest(lambda multiple: False) == 0.0

    def test_stops_somewhere(self) -> None:
        assert highest(lambda multiple: True, most=8.0) == 8.0
