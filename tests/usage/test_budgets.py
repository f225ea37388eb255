"""A budget is reserved before the call, settled after it, and released when there was no call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import BudgetExceeded, PriceUnknown, Unauthorized, Unavailable
from goblin_assistant.metrics import budget_rejections_total
from goblin_assistant.usage.budgets import BudgetState, Reservation, ReservationEnded, Settled
from goblin_assistant.usage.months import month_of, next_month, period_of
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import first_id_at, journal_line, new_record_id
from goblin_assistant.usage.store import UsageStore
from tests.support.books import (
    add_key,
    budget_of,
    count,
    entry,
    open_store,
    principal,
    rows,
)
from tests.support.books_fixtures import engine

__all__ = ["engine"]

DOLLAR = 1_000_000
ECHO = [("echo", "echo")]


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[UsageStore]:
    """A store on `engine`, with echo at a hundred micro-dollars a token."""
    with open_store(engine, tmp_path) as store:
        yield store


def hold(store: UsageStore, key: int, tokens: int = 100, budget: int = DOLLAR) -> Reservation:
    held = store.reserve(new_record_id(), principal(key, budget), ECHO, 0, tokens)
    assert held is not None
    return held


def settle(store: UsageStore, held: Reservation, cost: int | None) -> None:
    store.finish(entry(id=held.id, key_id=held.key_id, cost_microusd=cost), held)


def test_what_a_chat_may_cost_is_held_and_then_replaced_by_what_it_cost(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    held = store.reserve(new_record_id(), principal(key, DOLLAR), ECHO, 40, 60)
    assert held is not None
    assert held.amount_microusd == 10_000
    assert budget_of(engine, key) == (0, 10_000)
    settle(store, held, 4200)
    assert budget_of(engine, key) == (4200, 0)
    assert count(engine, "budget_reservations") == 0


def test_a_chat_that_cost_nothing_gives_everything_back(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine)
    settle(store, hold(store, key), 0)
    assert budget_of(engine, key) == (0, 0)


def test_a_chat_whose_cost_turns_out_unknown_gives_its_reservation_back(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    settle(store, hold(store, key), None)
    assert budget_of(engine, key) == (0, 0)


def test_the_last_micro_dollar_can_be_spent_and_not_one_more(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    hold(store, key, 100, budget=20_000)
    hold(store, key, 100, budget=20_000)
    with pytest.raises(BudgetExceeded):
        hold(store, key, 1, budget=20_000)
    key = add_key(engine)
    with pytest.raises(BudgetExceeded):
        hold(store, key, 100, budget=9_999)
    hold(store, key, 100, budget=10_000)


def test_the_refusal_says_what_there_is_and_when_there_is_more(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    before = budget_rejections_total._value.get()
    settle(store, hold(store, key), 2500)
    hold(store, key, 50, budget=10_000)
    with pytest.raises(BudgetExceeded) as refused:
        hold(store, key, 100, budget=10_000)
    error = refused.value
    period = month_of(now_ms())
    assert error.status == 402
    for part in (
        "$0.01 ",
        period,
        "$0.0025 is spent",
        "$0.005 is reserved",
        "may cost $0.01",
        next_month(period),
    ):
        assert part in error.message
    assert error.extra == {
        "budget_usd": "0.01", "spent_usd": "0.0025", "reserved_usd": "0.005", "needed_usd": "0.01",
        "resets_at": next_month(period),
    }  # fmt: skip
    assert budget_rejections_total._value.get() == before + 1
    assert budget_of(engine, key) == (2500, 5000)


def test_a_request_for_more_than_any_database_holds_is_refused_and_no_error(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    with pytest.raises(BudgetExceeded):
        hold(store, key, 10**40)
    assert budget_of(engine, key) == (0, 0)


def test_a_key_without_a_budget_reserves_nothing_but_its_spending_is_counted(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    assert store.reserve(new_record_id(), principal(key, None), ECHO, 10, 10) is None
    assert store.reserve(new_record_id(), principal(None, DOLLAR), ECHO, 10, 10) is None
    store.finish(entry(key_id=key, cost_microusd=9_500), None)
    store.finish(entry(key_id=key, cost_microusd=400), None)
    assert budget_of(engine, key) == (9_900, 0)
    # A budget that is set in mid-month counts what was spent before.
    with pytest.raises(BudgetExceeded):
        hold(store, key, 2, budget=10_000)
    hold(store, key, 1, budget=10_000)


def test_a_free_model_can_be_used_when_the_budget_is_spent(engine: Engine, tmp_path: Path) -> None:
    key = add_key(engine)
    with open_store(engine, tmp_path / "free", prices=Prices({})) as store:
        assert store.reserve(new_record_id(), principal(key, 0), ECHO, 1000, 1000) is None


def test_a_budget_of_nothing_buys_nothing(engine: Engine, store: UsageStore) -> None:
    with pytest.raises(BudgetExceeded):
        hold(store, add_key(engine), 1, budget=0)


def test_the_dearest_candidate_is_reserved_for(engine: Engine, tmp_path: Path) -> None:
    rows_ = {
        "a/m": PriceRow(input=1, output=1),
        "b/m": PriceRow(input=9, output=2),
        "c/m": PriceRow(input=2, output=9),
    }
    with open_store(engine, tmp_path / "x", prices=Prices(rows_)) as store:
        key = principal(add_key(engine), DOLLAR)
        for prompt, completion, expected in ((100, 0, 900), (0, 100, 900), (100, 100, 1100)):
            held = store.reserve(
                new_record_id(), key, [("a", "m"), ("b", "m"), ("c", "m")], prompt, completion
            )
            assert held is not None
            assert held.amount_microusd == expected


def test_the_dearer_of_the_standard_and_the_tiers_price_is_reserved_for(
    engine: Engine, tmp_path: Path
) -> None:
    """A provider may answer in the standard tier instead of a cheaper one."""
    with open_store(engine, tmp_path / "x", prices=Prices({})) as store:
        key = principal(add_key(engine), DOLLAR)
        # gpt-5: $1.25 and $10.00 per million; flex is half of that, priority twice
        for tier, expected in (("", 11_250), ("flex", 11_250), ("priority", 22_500)):
            held = store.reserve(new_record_id(), key, [("openai", "gpt-5")], 1000, 1000, tier)
            assert held is not None
            assert held.amount_microusd == expected


def test_an_answer_without_a_limit_is_reserved_for_at_the_default(
    engine: Engine, tmp_path: Path
) -> None:
    with open_store(engine, tmp_path / "x", default_max_tokens=50) as store:
        held = store.reserve(new_record_id(), principal(add_key(engine), DOLLAR), ECHO, 10, None)
        assert held is not None
        assert held.amount_microusd == 6000


def test_a_model_without_a_price_is_refused_to_a_key_with_a_budget(
    engine: Engine, store: UsageStore
) -> None:
    key = principal(add_key(engine), DOLLAR)
    with pytest.raises(PriceUnknown, match=r'\[prices."ollama/llama3"\]'):
        store.reserve(new_record_id(), key, [("echo", "echo"), ("ollama", "llama3")], 10, 10)
    with pytest.raises(PriceUnknown):  # no price for output, and output was asked for
        store.reserve(new_record_id(), key, [("openai", "text-embedding-3-small")], 10, 10)
    assert (
        store.reserve(new_record_id(), key, [("openai", "text-embedding-3-small")], 1000, 0)
        is not None
    )


def test_without_the_database_nothing_is_spent(engine: Engine, store: UsageStore) -> None:
    store._database._away_until = float("inf")
    with pytest.raises(Unavailable):
        hold(store, add_key(engine))


def test_a_key_that_is_gone_reserves_nothing(engine: Engine, store: UsageStore) -> None:
    with pytest.raises((Unauthorized, BudgetExceeded)):
        hold(store, 4711)
    assert count(engine, "budget_periods") == 0
    assert count(engine, "budget_reservations") == 0


def test_reservations_of_killed_processes_end_by_themselves(engine: Engine, tmp_path: Path) -> None:
    with open_store(engine, tmp_path / "x", reservation_seconds=0.0) as store:
        key, other = add_key(engine), add_key(engine)
        for _ in range(3):
            hold(store, key)
        hold(store, other)
        alive = Reservation(new_record_id(), key, month_of(now_ms()), 10_000)
        store.budgets.reserve(alive.id, key, DOLLAR, 10_000, now_ms() + 3_600_000)
        assert budget_of(engine, key) == (0, 40_000)
        assert store.budgets.release_stale(now_ms() + 1) == 4
        assert store.release_stale_reservations() == 0
        assert budget_of(engine, key) == (0, 10_000)
        assert budget_of(engine, other) == (0, 0)


def test_a_chat_that_ends_after_its_reservation_was_released_only_adds_its_cost(
    engine: Engine, tmp_path: Path
) -> None:
    with open_store(engine, tmp_path / "x", reservation_seconds=0.0) as store:
        key = add_key(engine)
        late, other = hold(store, key), hold(store, key)
        assert store.budgets.release_stale(now_ms() + 1) == 2
        settle(store, late, 700)
        assert budget_of(engine, key) == (700, 0)
        assert (
            store.import_records(
                [journal_line(entry(id=other.id, key_id=key, cost_microusd=300))]
            ).imported
            == 1
        )
        assert budget_of(engine, key) == (1000, 0)


def test_a_rotated_key_goes_on_spending_the_budget_of_the_first(
    engine: Engine, store: UsageStore
) -> None:
    first = add_key(engine)
    second = add_key(engine, budget_key_id=first)
    settle(store, hold(store, first, 100), 10_000)
    held = hold(store, second, 100, budget=30_000)
    assert budget_of(engine, first) == (10_000, 10_000)
    settle(store, held, 8000)
    assert budget_of(engine, first) == (18_000, 0)
    with pytest.raises(BudgetExceeded, match=r"\$0.018 is spent"):
        hold(store, second, 121, budget=30_000)
    store.finish(entry(key_id=second, cost_microusd=1), None)
    unsettled = hold(store, second, 10, budget=30_000)
    store.import_records([journal_line(entry(id=unsettled.id, key_id=second, cost_microusd=2))])
    assert budget_of(engine, first) == (18_003, 0)
    assert budget_of(engine, second) == (0, 0)
    assert store.budgets.state(second, now_ms()).spent_microusd == 18_003


def test_chats_that_are_booked_together_end_the_reservations_of_each_key_and_its_successors(
    engine: Engine, store: UsageStore
) -> None:
    first, other = add_key(engine), add_key(engine)
    second = add_key(engine, budget_key_id=first)
    held = [hold(store, key, 100) for key in (first, second, second, other)]
    assert (budget_of(engine, first), budget_of(engine, other)) == ((0, 30_000), (0, 10_000))
    running = hold(store, first, 50)
    settled: list[Settled] = [
        (entry(id=one.id, key_id=one.key_id, cost_microusd=cost), one)
        for one, cost in zip(held, (100, 20, 3, None), strict=True)
    ]
    settled.append((entry(key_id=other, cost_microusd=7), None))
    settled.append((entry(key_id=None, cost_microusd=1000), None))
    store._database.run(store.budgets.book_new, settled)
    assert budget_of(engine, first) == (123, 5_000)
    assert budget_of(engine, other) == (7, 0)
    assert [row[0] for row in rows(engine, "SELECT id FROM budget_reservations")] == [running.id]


def test_chats_are_booked_one_by_one_when_a_reservation_of_them_has_ended(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    held = [hold(store, key), hold(store, key)]
    settle(store, held[0], 5)
    with pytest.raises(ReservationEnded):
        store._database.run(store.budgets.book_new, [(entry(id=one.id), one) for one in held])
    assert budget_of(engine, key) == (5, 10_000)


def test_finished_chats_are_settled_before_a_budget_that_they_may_cover_is_refused(
    engine: Engine, store: UsageStore
) -> None:
    key, soon = add_key(engine), now_ms() + 3_600_000
    running = hold(store, key, 100, budget=10_000)

    def reserve(amount: int, settle: Callable[[], bool]) -> Reservation:
        record_id = new_record_id()
        return store.budgets.reserve(record_id, key, 10_000, amount, soon, settle=settle)

    def settled() -> bool:
        store.finish(entry(id=running.id, key_id=key, cost_microusd=1000), running)
        return True

    with pytest.raises(BudgetExceeded):
        reserve(10_001, lambda: pytest.fail("nothing can be settled for so much"))
    with pytest.raises(BudgetExceeded):
        reserve(9_000, lambda: False)
    assert reserve(9_000, settled).amount_microusd == 9_000
    assert budget_of(engine, key) == (1_000, 9_000)
    with pytest.raises(BudgetExceeded):
        reserve(1, lambda: True)


def test_all_of_a_budget_is_reserved_once_the_chat_that_held_it_is_settled_without_cost(
    engine: Engine, store: UsageStore
) -> None:
    key, soon = add_key(engine), now_ms() + 3_600_000
    running = hold(store, key, 100, budget=10_000)

    def settled() -> bool:
        settle(store, running, 0)
        return True

    store.budgets.reserve(new_record_id(), key, 10_000, 10_000, soon, settle=settled)
    assert budget_of(engine, key) == (0, 10_000)


def test_records_that_change_no_budget_are_booked_without_a_statement(
    engine: Engine, store: UsageStore
) -> None:
    class Silent:
        """A cursor that nothing may be asked."""

    free: list[Settled] = [(entry(key_id=None, cost_microusd=5), None)]
    store.budgets.book_new(Silent(), [*free, (entry(key_id=7, cost_microusd=0), None)])
    store.budgets.book(Silent(), new_record_id(), 7, 0, None)
    store.budgets.book(Silent(), new_record_id(), None, 5, None)


def test_a_key_that_has_bought_nothing_has_spent_nothing(engine: Engine, store: UsageStore) -> None:
    key, now = add_key(engine), now_ms()
    assert store.budgets.state(key, now) == BudgetState(month_of(now), 0, 0)
    settle(store, hold(store, key), 700)
    hold(store, key, 5)
    assert store.budgets.state(key, now) == BudgetState(month_of(now), 700, 500)


def test_a_record_alone_is_booked_once_and_where_its_reservation_is(
    engine: Engine, store: UsageStore
) -> None:
    key, other, held = add_key(engine), add_key(engine), None

    def book(record_id: str, key_id: int | None, cost: int | None) -> None:
        store._database.run(store.budgets.book, record_id, key_id, cost, held)

    book(new_record_id(), key, None)
    book(new_record_id(), key, 0)
    book(new_record_id(), None, 5)
    assert count(engine, "budget_periods") == 0
    book(new_record_id(), key, 5)
    book(new_record_id(), key, 6)
    assert budget_of(engine, key) == (11, 0)
    held = hold(store, key, 10)
    book(held.id, other, 20)
    assert (budget_of(engine, key), budget_of(engine, other)) == ((31, 0), (0, 0))
    book(held.id, other, 9)
    assert budget_of(engine, key) == (40, 0), "its reservation has ended"
    held = hold(store, key, 10)
    book(held.id, key, None)
    assert budget_of(engine, key) == (40, 0)
    assert count(engine, "budget_reservations") == 0


def test_imported_records_end_reservations_and_add_their_costs(
    engine: Engine, store: UsageStore
) -> None:
    key, other = add_key(engine), add_key(engine)
    held = [hold(store, key), hold(store, key), hold(store, other)]
    records = [(held[0].id, key, 3), (held[1].id, key, 4), (held[2].id, other, None)]
    records += [(new_record_id(), key, 5), (new_record_id(), None, 6), (new_record_id(), 4711, 7)]
    store._database.run(store.budgets.book_many, records)
    assert (budget_of(engine, key), budget_of(engine, other)) == ((12, 0), (0, 0))
    assert (count(engine, "budget_reservations"), count(engine, "budget_periods")) == (0, 2)
    store._database.run(store.budgets.book_many, [(held[0].id, key, 1)])
    assert budget_of(engine, key) == (13, 0)


class Watched:
    """A cursor that notes whose budgets are written, in which order."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.booked: list[int] = []

    def execute(self, statement: str, values: Any) -> None:
        if statement.startswith("UPDATE budget_periods"):
            self.booked.append(values[2])
        self._cursor.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def test_budgets_are_written_in_the_order_of_the_keys_that_own_them(
    engine: Engine, store: UsageStore
) -> None:
    """Two instances that write the same budgets in different orders would wait for each other."""
    first, other = add_key(engine), add_key(engine)
    second = add_key(engine, budget_key_id=first)
    records = [(new_record_id(), key, 5) for key in (other, second)]

    def book(cursor: Any) -> list[int]:
        watched = Watched(cursor)
        store.budgets.book_many(watched, records)
        return watched.booked

    assert store._database.run(book) == [first, other]
    assert (budget_of(engine, first), budget_of(engine, other)) == ((5, 0), (5, 0))


def test_each_month_has_its_budget_and_a_chat_counts_where_it_began(
    engine: Engine, store: UsageStore
) -> None:
    key = add_key(engine)
    november = first_id_at(1_796_083_199_999)  # 2026-11-30T23:59:59.999Z
    december = first_id_at(1_796_083_200_000)
    assert (period_of(november), period_of(december)) == ("2026-11", "2026-12")
    for record_id in (november, december):
        held = store.reserve(record_id, principal(key, 10_000), ECHO, 0, 100)
        settle(store, held, 10_000)  # type: ignore[arg-type]
    found = rows(engine, "SELECT period, spent_microusd FROM budget_periods ORDER BY period")
    assert [tuple(row) for row in found] == [("2026-11", 10_000), ("2026-12", 10_000)]
    with pytest.raises(BudgetExceeded):
        store.reserve(first_id_at(1_796_083_199_998), principal(key, 10_000), ECHO, 0, 1)


@pytest.mark.parametrize(
    ("period", "reset"), [("2026-11", "2026-12-01T00:00:00Z"), ("2026-12", "2027-01-01T00:00:00Z")]
)
def test_a_month_ends_where_the_next_begins(period: str, reset: str) -> None:
    assert next_month(period) == reset
