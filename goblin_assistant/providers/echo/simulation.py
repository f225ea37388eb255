"""How a simulated provider behaves: its latency, its speed, how often and how it fails.

Lengths of time are distributions, written as text: `0.4` (constant), `uniform:0.1,0.5`,
`normal:0.4,0.1`, `lognormal:0.4,0.3` (median in seconds, sigma of the logarithm; typical of
latencies), `exponential:0.4` (mean).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    Call,
    CallCancelled,
    ConnectionFailed,
    ContentFiltered,
    ContextLengthExceeded,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderError,
    RateLimited,
    Timeout,
)

CHECK_SECONDS = 0.25
"""Seconds between two checks whether the client has disconnected, during a wait."""

FaultKind = Literal[
    "rate_limited",
    "overloaded",
    "bad_response",
    "timeout",
    "connection_failed",
    "authentication_failed",
    "invalid_request",
    "context_length_exceeded",
    "content_filtered",
    "model_not_found",
    "cut",
]
"""`cut`: a stream breaks off in the middle; an answer in one piece fails as bad_response."""

_FAULTS: dict[str, type[ProviderError]] = {
    "rate_limited": RateLimited,
    "overloaded": Overloaded,
    "bad_response": BadResponse,
    "timeout": Timeout,
    "connection_failed": ConnectionFailed,
    "authentication_failed": AuthenticationFailed,
    "invalid_request": InvalidRequest,
    "context_length_exceeded": ContextLengthExceeded,
    "content_filtered": ContentFiltered,
    "model_not_found": ModelNotFound,
    "cut": BadResponse,
}

Draw = Callable[[random.Random], float]


def distribution(text: str) -> Draw:
    """A function that draws from a distribution. Raises ValueError with what is accepted."""
    kind, _, rest = text.partition(":")
    try:
        if not rest:
            value = _finite(kind)
            return lambda _: value
        numbers = [_finite(part) for part in rest.split(",")]
        if kind == "uniform":
            low, high = numbers
            if low > high:
                raise ValueError
            return lambda rng: rng.uniform(low, high)
        if kind == "normal":
            mean, deviation = numbers
            return lambda rng: max(0.0, rng.gauss(mean, deviation))
        if kind == "lognormal":
            median, sigma = numbers
            return lambda rng: median * math.exp(rng.gauss(0.0, sigma))
        if kind == "exponential":
            (mean,) = numbers
            return lambda rng: rng.expovariate(1 / mean) if mean else 0.0
    except ValueError:
        pass
    raise ValueError(
        f"{text!r}: accepted: a number, uniform:low,high, normal:mean,deviation, "
        "lognormal:median,sigma or exponential:mean"
    )


def _finite(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise ValueError
    return number


def _checked(value: str) -> str:
    distribution(value)
    return value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Distribution = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked)]


class SimulationOptions(BaseModel):
    """`options` of a row of kind echo. By default answers come at once and never fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    latency: Distribution = Field("0", description="seconds until an answer begins")
    ttft: Distribution | None = Field(
        None, description="the same for streams only; latency where left out"
    )
    tokens_per_second: float = Field(0, ge=0, le=1e6, description="0: all at once")
    tokens: Distribution | None = Field(
        None, description="length of the answer in tokens; left out: the text is echoed"
    )
    error_rate: float = Field(0, ge=0, le=1, description="share of calls that fail")
    error_kinds: tuple[FaultKind, ...] = Field(
        ("bad_response",), min_length=1, description="drawn from evenly"
    )
    retry_after: float | None = Field(
        None, ge=0, description="seconds, said with rate_limited and overloaded"
    )
    seed: int | None = Field(
        None, description="the same calls in the same order give the same draws"
    )


class Plan:
    """The course of one call, drawn beforehand."""

    __slots__ = ("cut_at", "error", "length", "pace", "wait")

    def __init__(
        self,
        wait: float,
        pace: float,
        length: int | None,
        error: ProviderError | None,
        cut_at: float | None,
    ) -> None:
        self.wait = wait  # seconds until the answer begins
        self.pace = pace  # seconds per token
        self.length = length  # of the answer, in tokens; None: echo
        self.error = error
        self.cut_at = cut_at  # share of the stream before the error; None: no answer at all


class Simulation:
    """Draws plans from one row's options. Shared by all threads."""

    def __init__(self, provider: str, options: SimulationOptions | None = None) -> None:
        options = options or SimulationOptions()
        self._provider = provider
        self._options = options
        self._latency = distribution(options.latency)
        self._ttft = distribution(options.ttft) if options.ttft is not None else self._latency
        self._tokens = distribution(options.tokens) if options.tokens is not None else None
        self._pace = 1 / options.tokens_per_second if options.tokens_per_second else 0.0
        self._random = random.Random(options.seed)
        self.idle = options.model_copy(update={"seed": None}) == SimulationOptions()
        self._calm = Plan(0.0, 0.0, None, None, None)

    def plan(self, *, stream: bool) -> Plan:
        """The next call's plan."""
        if self.idle:
            return self._calm
        rng = self._random
        wait = (self._ttft if stream else self._latency)(rng)
        length = max(0, round(self._tokens(rng))) if self._tokens else None
        error, cut_at = None, None
        if self._options.error_rate and rng.random() < self._options.error_rate:
            kind = rng.choice(self._options.error_kinds)
            error = self._error(kind)
            if kind == "cut" and stream:
                cut_at = rng.uniform(0.2, 0.8)
        return Plan(wait, self._pace, length, error, cut_at)

    def _error(self, kind: str) -> ProviderError:
        after = self._options.retry_after if kind in ("rate_limited", "overloaded") else None
        return _FAULTS[kind](
            f"{self._provider} simulates the fault {kind}",
            provider=self._provider,
            retry_after=after,
        )


def wait(seconds: float, call: Call, provider: str) -> None:
    """Sleep. Raises CallCancelled when the client disconnects, Timeout at the call's deadline."""
    wait_until(time.monotonic() + seconds, call, provider)


def wait_until(moment: float, call: Call, provider: str) -> None:
    """As `wait`, until a moment on time.monotonic()'s clock, so that a pace does not drift."""
    while True:
        now = time.monotonic()
        left = moment - now
        if left <= 0:
            return
        if now >= call.deadline:
            raise Timeout(
                f"{provider} did not finish before the request's deadline", provider=provider
            )
        if left > CHECK_SECONDS / 2 and call.client_gone is not None and call.client_gone():
            raise CallCancelled
        time.sleep(min(left, CHECK_SECONDS, call.deadline - now))


assert set(get_args(FaultKind)) == set(_FAULTS)
