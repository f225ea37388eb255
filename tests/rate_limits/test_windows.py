"""What is counted under a key takes bounded memory, and a full table drops the right key."""

from __future__ import annotations

from goblin_assistant.rate_limits.windows import Table, Window


def fill(table: Table[Window], **hits: int) -> None:
    for key, count in hits.items():
        table.use(key, 0.0, 60).times.extend([0.0] * count)


def kept(table: Table[Window], *keys: str) -> str:
    return "".join(key for key in keys if table.get(key) is not None)


def test_expired_hits_are_dropped_once_they_are_more_than_half() -> None:
    window = Window()
    window.times.extend(range(10))
    window.expire(2.0)
    assert (window.weight(), len(window.times)) == (7, 10)
    window.expire(4.0)
    assert (window.weight(), len(window.times)) == (5, 10)
    window.expire(5.0)
    assert (window.weight(), len(window.times)) == (4, 4)
    window.expire(9.0)
    assert (window.weight(), len(window.times)) == (0, 0)


def test_a_key_that_is_always_busy_keeps_no_hits_of_the_past() -> None:
    table = Table(Window, 10)
    for second in range(10_000):
        table.use("a", float(second), 10).times.append(float(second))
    busy = table.get("a")
    assert busy is not None
    assert busy.weight() == 10
    assert len(busy.times) <= 20


def test_of_the_four_least_recently_used_keys_the_one_with_the_fewest_hits_goes() -> None:
    table = Table(Window, 5)
    fill(table, a=3, b=3, c=3, d=2, e=1)
    fill(table, f=1)
    assert kept(table, *"abcdef") == "abcef"


def test_the_first_of_keys_with_equally_many_hits_goes() -> None:
    table = Table(Window, 5)
    fill(table, a=3, b=3, c=3, d=3, e=1)
    fill(table, f=1)
    assert kept(table, *"abcdef") == "bcdef"


def test_a_key_that_is_used_again_is_the_last_to_go() -> None:
    table = Table(Window, 5)
    fill(table, a=1, b=3, c=3, d=3, e=2)
    table.use("a", 0.0, 60)
    fill(table, f=1)
    assert kept(table, *"abcdef") == "abcdf"


def test_all_that_were_spared_move_to_the_back() -> None:
    table = Table(Window, 8)
    fill(table, a=3, b=1, c=2, d=2, e=3, f=3, g=3, h=3)
    fill(table, i=1, j=1)
    assert kept(table, *"abcdefghij") == "acdfghij"


def test_keys_that_were_spared_are_not_compared_again_at_the_next_eviction() -> None:
    table = Table(Window, 8)
    fill(table, a=3, b=3, c=3, d=1, e=3, f=2, g=3, h=3)
    fill(table, i=1, j=1)
    assert kept(table, *"abcdefghij") == "abceghij"


def test_a_new_key_drops_two_expired_ones_and_leaves_those_that_are_not() -> None:
    table = Table(Window, 10)
    fill(table, a=1, b=1, c=1)
    table.use("d", 60.0, 60)
    assert kept(table, *"abcd") == "cd"
    table.use("e", 60.0, 60)
    assert kept(table, *"abcde") == "de"
    table.use("f", 61.0, 60)
    assert kept(table, *"def") == "def"
