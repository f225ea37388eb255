"""The account that the load test uses: the one it is given, or a new one."""

from __future__ import annotations

import secrets
import time
from typing import Any

import gevent
import requests
from gevent.lock import RLock

EARLY_SECONDS = 60.0
"""An access token is renewed this long before it expires."""
LONGEST_WAIT = 90.0
"""Seconds that the set-up waits when a rate limit refuses it."""


class AccountError(Exception):
    """No account can be used. The message says what to do."""


class Account:
    """Logs in once for all simulated users and renews the access token. It is not measured."""

    def __init__(self, host: str, email: str | None = None, password: str | None = None) -> None:
        self._host = host.rstrip("/")
        self._given = email is not None
        self.email = email or f"loadtest-{secrets.token_hex(6)}@example.com"
        self.password = password or secrets.token_urlsafe(18)
        self._tokens: dict[str, Any] = {}
        self._ends = 0.0
        self._early = EARLY_SECONDS
        self._lock = RLock()
        self._error: AccountError | None = None
        if (email is None) != (password is None):
            self._error = AccountError(
                "--account-email and --account-password go together: give both, or neither"
            )

    def headers(self) -> dict[str, str]:
        """Credentials for a request. Raises AccountError."""
        if time.monotonic() > self._ends - self._early:
            with self._lock:
                if self._error is not None:
                    raise self._error
                if time.monotonic() > self._ends - self._early:
                    try:
                        self._renew()
                    except AccountError as error:
                        self._error = error
                        raise
        return {"Authorization": f"Bearer {self._tokens['access_token']}"}

    def _renew(self) -> None:
        if self._tokens:
            answer = self._post("/auth/refresh", {"refresh_token": self._tokens["refresh_token"]})
            if answer.status_code != 200:
                answer = self._login()
        elif self._given:
            answer = self._login()
        else:
            answer = self._post("/auth/register", {"email": self.email, "password": self.password})
            if answer.status_code == 403:
                raise AccountError(
                    f"{self._host} has closed registration. Create a user on the server "
                    "(goblin-assistant users create) and set GOBLIN_LOADTEST_EMAIL and "
                    "GOBLIN_LOADTEST_PASSWORD to its address and password."
                )
            if answer.status_code not in (200, 201):
                raise AccountError(f"registering an account failed: {_said(answer)}")
            if "access_token" not in answer.json():
                answer = self._login()
        if answer.status_code != 200 and answer.status_code != 201:
            raise AccountError(f"logging in as {self.email} failed: {_said(answer)}")
        self._tokens = answer.json()
        seconds = float(self._tokens.get("expires_in", 900))
        self._ends = time.monotonic() + seconds
        self._early = min(EARLY_SECONDS, seconds / 2)

    def _login(self) -> requests.Response:
        return self._post("/auth/login", {"email": self.email, "password": self.password})

    def _post(self, path: str, body: dict[str, str]) -> requests.Response:
        end = time.monotonic() + LONGEST_WAIT
        while True:
            try:
                answer = requests.post(self._host + path, json=body, timeout=30)
            except ValueError as error:  # requests raises one for an invalid address
                raise AccountError(
                    f"--host {self._host or '(none)'} is no address; "
                    "write it whole, as http://localhost:8001"
                ) from error
            except requests.RequestException as error:
                raise AccountError(
                    f"{self._host} cannot be reached: {type(error).__name__}. "
                    "Is the server running?"
                ) from error
            if answer.status_code != 429:
                return answer
            wait = float(answer.headers.get("Retry-After", "5"))
            if time.monotonic() + wait > end:
                raise AccountError(
                    f"POST {path} is rate limited for another {wait:g} s; wait, or start the "
                    "server with RATELIMIT_ENABLED=false"
                )
            goes = "go on" if self._tokens else "begin"
            print(
                f"POST {path}: rate limited, waiting {wait:g} s before the load test can {goes}",
                flush=True,
            )
            gevent.sleep(wait)


def _said(answer: requests.Response) -> str:
    try:
        return f"{answer.status_code} {answer.json()['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:200]}"
