"""The deployment under test, as a caller with one API key sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

from goblin_assistant.commands.doctor.findings import in_words
from goblin_assistant.commands.plain_session import plain_session
from goblin_assistant.commands.prove.verdicts import NotTried
from goblin_assistant.money import to_microusd

T = TypeVar("T")

KEY_COMMAND = (
    "goblin-assistant keys create you@example.com --name prove --scope chat --model echo "
    "--requests-per-minute 120 --monthly-budget-usd 1 --expires-in 1d"
)
"""Makes the key that `prove` needs, for a user that exists."""

ROWS = """\
[providers.prove]
kind = "echo"
options = { tokens_per_second = 10 }

[prices."echo/*"]
input = 1
output = 2

[prices."prove/*"]
input = 1
output = 2
"""
"""What `prove` needs in goblin.toml: an echo that takes its time, and prices for both."""

MODEL, PACED_MODEL = "echo", "prove/echo"
SECONDS = 60.0
_CHECK_SECONDS = 0.5
_RECORD_SECONDS = 15.0
_QUIET_CHECKS = 2


class CannotStart(Exception):
    """Nothing can be tried. `str(error)` says what to do."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What GET /usage adds up for the key. Money is in micro-dollars."""

    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    unpriced: int
    spent: int | None
    reserved: int | None

    def __sub__(self, before: Usage) -> Usage:
        """The usage added since `before`."""
        return Usage(
            self.requests - before.requests,
            self.failed - before.failed,
            self.prompt_tokens - before.prompt_tokens,
            self.completion_tokens - before.completion_tokens,
            self.cost - before.cost,
            self.unpriced - before.unpriced,
            None if self.spent is None or before.spent is None else self.spent - before.spent,
            self.reserved,
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """`verify` is as requests takes it: True, or the file of a certificate authority."""

    url: str
    key: str
    verify: str | bool = True
    model: str = MODEL
    paced_model: str = PACED_MODEL

    @contextmanager
    def session(self) -> Iterator[requests.Session]:
        """A session with the key. One for each thread."""
        with plain_session() as session:
            session.verify = self.verify
            session.headers["Authorization"] = f"Bearer {self.key}"
            yield session

    def post(
        self,
        session: requests.Session,
        text: str = "a goblin",
        *,
        headers: Mapping[str, str] | None = None,
        streamed: bool = False,
        paced: bool = False,
        **fields: Any,
    ) -> requests.Response:
        """Send one chat; return its answer, whatever its status. A stream is not read yet."""
        return session.post(
            self.url + "/v1/chat/completions",
            json={
                "model": self.paced_model if paced else self.model,
                "messages": [{"role": "user", "content": text}],
                "stream": streamed,
                **fields,
            },
            headers=dict(headers or {}),
            stream=streamed,
            timeout=SECONDS,
        )

    def good(self, answer: requests.Response) -> requests.Response:
        """The answer, if its status is 200. Raises NotTried if the key or the configuration is the
        cause of the refusal, else HTTPError."""
        if answer.status_code == 200:
            return answer
        status, said = answer.status_code, message_of(answer)
        if status == 429:
            raise NotTried(
                f"the key's limit ran out ({said}): wait a minute, or make one with: {KEY_COMMAND}"
            )
        if status == 402:
            raise NotTried(f"the key's budget ran out ({said}): make one with: {KEY_COMMAND}")
        if status in (400, 403, 404):
            raise NotTried(f"{status}, {said}. docs/prove.md has the rows of goblin.toml.")
        answer.raise_for_status()
        raise NotTried(f"answered {status}: {said}")

    def usage(self) -> Usage:
        """What the key has used in the last 30 days."""
        with self.session() as session:
            answer = session.get(self.url + "/usage", params={"limit": "1"}, timeout=SECONDS)
        if answer.status_code == 429:
            raise NotTried("GET /usage was refused by a limit: wait a minute and try again")
        answer.raise_for_status()
        body = answer.json()
        totals, budget = body["totals"], body.get("budget")
        return Usage(
            totals["requests"],
            totals["failed_requests"],
            totals["prompt_tokens"],
            totals["completion_tokens"],
            totals["cost_microusd"],
            totals["unpriced_requests"],
            to_microusd(budget["spent_usd"]) if budget else None,
            to_microusd(budget["reserved_usd"]) if budget else None,
        )

    def settled_usage(self) -> Usage:
        """The usage once it stops changing: records of chats that were just answered may still be
        missing."""
        found, quiet, end = self.usage(), 0, time.monotonic() + _RECORD_SECONDS
        while quiet < _QUIET_CHECKS and time.monotonic() < end:
            time.sleep(_CHECK_SECONDS)
            before, found = found, self.usage()
            quiet = quiet + 1 if found == before else 0
        return found

    def usage_since(self, before: Usage, records: int, seconds: float = _RECORD_SECONDS) -> Usage:
        """The usage added since `before`. Waits up to `seconds` for `records` records, then a
        moment longer, because a surplus record may come last."""
        end = time.monotonic() + seconds
        while (found := self.usage() - before).requests < records and time.monotonic() < end:
            time.sleep(_CHECK_SECONDS)
        time.sleep(_CHECK_SECONDS)
        return self.usage() - before if found.requests >= records else found


def open_deployment(deployment: Deployment) -> None:
    """Check address and key with one chat. Raises CannotStart."""
    if not deployment.url.startswith(("http://", "https://")):
        raise CannotStart(f"--url {deployment.url}: give it with http:// or https://")
    try:
        with deployment.session() as session:
            models = session.get(deployment.url + "/v1/models", timeout=SECONDS)
            if models.status_code == 401:
                raise CannotStart(
                    f"--key: the deployment does not accept it ({message_of(models)}). "
                    f"Make one with: {KEY_COMMAND}"
                )
            if models.status_code == 503:
                raise CannotStart(f"{deployment.url} is not ready: {message_of(models)}")
            if models.status_code != 200 or not _is_list(models):
                raise CannotStart(
                    f"{deployment.url}/v1/models answers {models.status_code} and no list of "
                    "models: --url is the address under which clients reach Goblin Assistant"
                )
            answer = deployment.post(session, max_tokens=1)
    except (requests.RequestException, ValueError) as error:
        raise CannotStart(
            f"{deployment.url}: {in_words(error)}. Check --url, and --ca-file for a certificate "
            "of your own authority."
        ) from None
    if answer.status_code in (403, 404):
        raise CannotStart(
            f"the key may not use the model {deployment.model} ({message_of(answer)}). "
            f"Make one with: {KEY_COMMAND}"
        )
    if answer.status_code in (402, 429):
        raise CannotStart(
            f"{message_of(answer)}. Wait until it is free, or make a key with: {KEY_COMMAND}"
        )
    if answer.status_code != 200:
        raise CannotStart(f"a first chat was answered {answer.status_code}: {message_of(answer)}")


def _is_list(answer: requests.Response) -> bool:
    try:
        body = answer.json()
    except requests.exceptions.JSONDecodeError:
        return False
    return isinstance(body, dict) and isinstance(body.get("data"), list)


def message_of(answer: requests.Response) -> str:
    """The message of a refusal, in the native error format or in OpenAI's."""
    try:
        body = answer.json()
        error = body.get("error")
        said = error.get("message") if isinstance(error, dict) else body.get("message")
    except (requests.exceptions.JSONDecodeError, AttributeError):
        said = None
    return str(said) if said else f"status {answer.status_code}"


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """Run work(0), work(1) ... at the same time; return their results in that order."""
    start = threading.Barrier(count)

    def begin(number: int) -> T:
        start.wait(SECONDS)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
