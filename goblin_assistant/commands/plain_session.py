"""Requests of commands to addresses that the operator named."""

from __future__ import annotations

import requests


def plain_session() -> requests.Session:
    """A session that ignores the environment's proxies and .netrc: the address itself has to
    answer, without a password that nobody gave."""
    session = requests.Session()
    session.trust_env = False
    return session
