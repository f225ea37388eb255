"""An address has one spelling, and what is none stays as it is."""

from __future__ import annotations

import pytest

from goblin_assistant.server.addresses import MAX_HOPS_LENGTH, plain, plain_hops, scheme_of


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("198.51.100.1", "198.51.100.1"),
        (" 198.51.100.1:80 ", "198.51.100.1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("0:0:0:0:0:FFFF:c633:6401", "198.51.100.1"),
        ("[::1]", "::1"),
        ("[2001:DB8::0:1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:198.51.100.1:8080", "198.51.100.1"),
        ("2001:db8:0:0:0:0:0:1:8080", "2001:db8::1"),
        ("2001:db8::1:8080", "2001:db8::1:8080"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("fe80::1%eth0:80", "fe80::1"),
        ('"unknown"', "unknown"),
        ("_hidden:4711", "_hidden"),
        (":80", ":80"),
        ("unknown", "unknown"),
        ("_hidden", "_hidden"),
        ("", ""),
        ("[", "["),
        ('"', ""),
        ('a"b:80"', "ab"),
        ('[ "::1" ]', "::1"),
        ('"198.51.100.1', "198.51.100.1"),
        ("*", "*"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_an_address_has_one_spelling(written: str, expected: str) -> None:
    assert plain(written) == expected


def test_hops_keep_their_order_and_number() -> None:
    assert plain_hops("unknown, ::1,10.0.0.1:5") == "unknown, [::1], 10.0.0.1"


def test_empty_hops_are_none() -> None:
    assert plain_hops(", 198.51.100.1, ,10.0.0.1:80 , ,") == "198.51.100.1, 10.0.0.1"
    assert plain_hops(" , ") == ""


@pytest.mark.parametrize(
    ("written", "proxies", "scheme"),
    [
        ("HTTPS", 1, "https"),
        ('"https"', 1, "https"),
        ("https, http", 1, "http"),
        ("https, http", 2, "https"),
        ("http, https, http", 2, "https"),
        ("https", 3, "https"),
        ("https, ,", 1, "https"),
        ("wss", 1, None),
        ("ftp, https", 2, None),
        ("", 1, None),
        (",", 1, None),
    ],
)
def test_the_scheme_is_that_of_the_outermost_trusted_proxy(
    written: str, proxies: int, scheme: str | None
) -> None:
    assert scheme_of(written, proxies) == scheme


def test_the_last_hops_of_a_long_list_are_spelled_alike_too() -> None:
    sent = "1.1.1.1, " * MAX_HOPS_LENGTH + "::ffff:198.51.100.1, [::1]:80"
    assert plain_hops(sent).endswith("1.1.1.1, 198.51.100.1, [::1]")
    assert len(plain_hops(sent)) <= MAX_HOPS_LENGTH
