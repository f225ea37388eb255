"""Order of targets, retries, fallback and breakers, with providers scripted in the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from goblin_assistant.config import Config, ConfigError, GoblinFile
from goblin_assistant.errors import CircuitOpen, NoFreeSlot, UnknownModel
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    Call,
    CallCancelled,
    ChatRequest,
    ChatResponse,
    Completed,
    ContextLengthExceeded,
    InvalidRequest,
    Model,
    Provider,
    ProviderError,
    RateLimited,
    StreamEvent,
)
from goblin_assistant.providers.errors import Reach
from goblin_assistant.routing import attempt as attempt_module
from goblin_assistant.routing import retries
from goblin_assistant.routing import router as routing_module
from goblin_assistant.routing.attempt import Outcome, Trace
from goblin_assistant.routing.router import Router
from goblin_assistant.routing.targets import Target
from tests.conftest import wait_until


class Scripted(Provider):
    """Raises or answers in the order of its script; the last entry repeats."""

    def __init__(
        self, name: str, *script: ProviderError | str, models: Sequence[str] = ("m",)
    ) -> None:
        self.name = name
        self.script = list(script) or ["ok"]
        self.calls = 0
        self._models = [Model(model) for model in models]

    def models(self) -> Sequence[Model]:
        return self._models

    def complete(self, request: ChatRequest) -> ChatResponse:
        entry = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        if isinstance(entry, ProviderError):
            raise entry
        return ChatResponse(entry.encode(), model=request.model)

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        yield self.complete(request).body
        yield Completed()

    def check(self, timeout: float = 3.0) -> None:
        return


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_BACKOFF_BASE", 0.0)


RouterFactory = Callable[..., Router]


@pytest.fixture
def make_router() -> RouterFactory:
    def make(*providers: Provider, file: dict[str, Any] | None = None, **settings: Any) -> Router:
        config = Config.load(
            {"secret_key": "x" * 32, "file": GoblinFile.model_validate(file or {}), **settings},
            environ={},
        )
        return Router(config, Registry({provider.name: provider for provider in providers}))

    return make


def run(
    router: Router, model: str, call: Call | None = None
) -> tuple[Outcome[ChatResponse], Trace]:
    trace = Trace(time.perf_counter())
    call = call or Call()
    outcome = router.run(
        router.resolve(model),
        lambda target: target.provider.complete(ChatRequest(target.model, {}, call=call)),
        call,
        trace,
    )
    outcome.release()
    return outcome, trace


def names(targets: list[Target]) -> list[str]:
    return [target.name for target in targets]


# -- names ------------------------------------------------------------------------------------
def test_a_bare_model_goes_to_the_first_provider_that_serves_it(make_router: RouterFactory) -> None:
    router = make_router(Scripted("a", models=["x"]), Scripted("b", models=["x", "y"]))
    assert names(router.resolve("x")) == ["a/x"]
    assert names(router.resolve("y")) == ["b/y"]
    assert names(router.resolve("b/x")) == ["b/x"]


def test_an_unknown_model_is_refused_with_its_name(make_router: RouterFactory) -> None:
    with pytest.raises(UnknownModel, match="'nope'"):
        make_router(Scripted("a")).resolve("nope")


def test_aliases_and_chains_may_name_each_other_and_targets_appear_once(
    make_router: RouterFactory,
) -> None:
    router = make_router(
        Scripted("a"),
        Scripted("b"),
        file={
            "aliases": {"smart": "chain"},
            "chains": {"chain": ["a/m", "b/m", "also"], "also": ["a/m"]},
        },
    )
    assert names(router.resolve("smart")) == ["a/m", "b/m"]


def test_weights_decide_the_first_target_and_the_rest_follow(make_router: RouterFactory) -> None:
    router = make_router(
        Scripted("a"),
        Scripted("b"),
        file={"weighted": {"w": [{"model": "a/m", "weight": 9}, {"model": "b/m", "weight": 1}]}},
    )
    drawn = [names(router.resolve("w")) for _ in range(2000)]
    assert all(sorted(order) == ["a/m", "b/m"] for order in drawn)
    share = sum(order[0] == "a/m" for order in drawn) / len(drawn)
    assert 0.85 < share < 0.95


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ({"aliases": {"a": "b", "b": "a"}}, "circle"),
        ({"aliases": {"fast": "nobody-has-this"}}, "no provider serves"),
        ({"chains": {"c": ["p/m", "ghost/m"]}}, "no provider 'ghost'"),
        ({"aliases": {"c": "p/m"}, "chains": {"c": ["p/m"]}}, "used twice"),
    ],
)
def test_a_route_that_leads_nowhere_is_refused_at_start(
    make_router: RouterFactory, file: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_router(Scripted("p"), file=file)


# -- retry and fallback -----------------------------------------------------------------------
def test_a_failed_call_is_repeated_at_the_only_target(make_router: RouterFactory) -> None:
    provider = Scripted("solo", BadResponse("1"), BadResponse("2"), "fine")
    outcome, trace = run(make_router(provider), "m")
    assert outcome.value.body == b"fine"
    assert trace.attempts == 3
    assert not trace.fallback
    assert [event["event"] for event in trace.events] == ["failed", "retry", "failed", "retry"]


def test_the_last_error_is_raised_when_the_retries_are_used_up(make_router: RouterFactory) -> None:
    provider = Scripted("solo", BadResponse("broken"))
    with pytest.raises(BadResponse, match="broken"):
        run(make_router(provider, retries=2), "m")
    assert provider.calls == 3


def test_with_a_fallback_the_first_target_is_not_repeated(make_router: RouterFactory) -> None:
    a, b = Scripted("a", BadResponse("down")), Scripted("b", "from b")
    outcome, trace = run(make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}), "c")
    assert outcome.value.body == b"from b"
    assert (a.calls, b.calls) == (1, 1)
    assert trace.fallback
    assert outcome.target.name == "b/m"


def test_a_refused_request_is_neither_repeated_nor_passed_on(make_router: RouterFactory) -> None:
    a, b = Scripted("a", InvalidRequest("no")), Scripted("b")
    with pytest.raises(InvalidRequest):
        run(make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}), "c")
    assert (a.calls, b.calls) == (1, 0)


def test_a_prompt_too_long_for_one_window_may_fit_the_next(make_router: RouterFactory) -> None:
    a, b = Scripted("a", ContextLengthExceeded("long")), Scripted("b", "fits")
    outcome, _ = run(make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}), "c")
    assert outcome.value.body == b"fits"


def test_our_bad_key_is_not_repeated_but_the_fallback_is_tried(make_router: RouterFactory) -> None:
    a, b = Scripted("a", AuthenticationFailed("key")), Scripted("b")
    run(make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}), "c")
    assert a.calls == 1
    lonely = Scripted("lonely", AuthenticationFailed("key"))
    with pytest.raises(AuthenticationFailed):
        run(make_router(lonely), "m")
    assert lonely.calls == 1


def test_a_retry_after_beyond_the_cap_is_passed_on_and_not_waited_for(
    make_router: RouterFactory,
) -> None:
    provider = Scripted("a", RateLimited("slow down", retry_after=60))
    with pytest.raises(RateLimited) as raised:
        run(make_router(provider, retry_after_cap=10), "m")
    assert raised.value.retry_after == 60
    assert provider.calls == 1


def test_a_retry_that_would_pass_the_deadline_is_not_made(make_router: RouterFactory) -> None:
    provider = Scripted("a", RateLimited("soon", retry_after=5))
    with pytest.raises(RateLimited):
        run(make_router(provider), "m", Call(deadline=time.monotonic() + 1))
    assert provider.calls == 1


def test_the_retry_budget_ends_a_storm(make_router: RouterFactory) -> None:
    provider = Scripted("a", BadResponse("down"))
    router = make_router(provider, breaker_min_calls=10_000, retries=2, retry_budget_ratio=0.1)
    for _ in range(100):
        with pytest.raises(BadResponse):
            run(router, "m")
    # 100 calls. Instead of 200 retries: the initial 5, a tenth of the calls, and a few that time
    # adds.
    assert 110 <= provider.calls < 125


def test_a_client_that_leaves_during_the_pause_ends_the_call(make_router: RouterFactory) -> None:
    provider = Scripted("a", RateLimited("wait", retry_after=5))
    with pytest.raises(CallCancelled):
        run(make_router(provider), "m", Call(client_gone=lambda: True))
    assert provider.calls == 1


# -- breaker ----------------------------------------------------------------------------------
def test_an_open_breaker_is_passed_over_and_the_chain_answers(make_router: RouterFactory) -> None:
    a, b = Scripted("a", BadResponse("down")), Scripted("b", "b")
    router = make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}, breaker_min_calls=5)
    traces = [run(router, "c")[1] for _ in range(20)]
    passed_over = {"event": "circuit_open", "provider": "a"}
    assert {**traces[-1].events[0], "at_ms": 0} == {**passed_over, "at_ms": 0}
    assert a.calls == 5
    assert b.calls == 20
    assert router.circuits() == {"a": "open", "b": "closed"}


def test_with_every_breaker_open_the_answer_says_when_to_come_back(
    make_router: RouterFactory,
) -> None:
    router = make_router(
        Scripted("a", BadResponse("down")), breaker_min_calls=2, retries=0, breaker_open_seconds=15
    )
    for _ in range(2):
        with pytest.raises(BadResponse):
            run(router, "m")
    with pytest.raises(CircuitOpen) as refused:
        run(router, "m")
    assert refused.value.status == 503
    assert 14 < (refused.value.retry_after or 0) <= 15


def test_calls_begun_before_it_opened_are_no_trials(make_router: RouterFactory) -> None:
    provider = Scripted("a", BadResponse("down"))
    router = make_router(provider, breaker_min_calls=2, retries=0, breaker_open_seconds=0.1)
    begun, go = threading.Event(), threading.Event()

    def straggle(target: Target) -> str:
        begun.set()
        assert go.wait(30)
        return "late"

    straggler = threading.Thread(
        target=lambda: router.run(
            router.resolve("m"), straggle, Call(), Trace(time.perf_counter())
        ).release()
    )
    straggler.start()
    assert begun.wait(30)
    for _ in range(2):
        with pytest.raises(BadResponse):
            run(router, "m")
    wait_until(
        lambda: router.circuits() == {"a": "half_open"},
        what="its time to be over, though nobody tries",
    )
    go.set()
    straggler.join(30)
    assert router.circuits() == {"a": "half_open"}


def test_refused_requests_do_not_open_the_breaker(make_router: RouterFactory) -> None:
    provider = Scripted("a", InvalidRequest("no"))
    router = make_router(provider, breaker_min_calls=2)
    for _ in range(10):
        with pytest.raises(InvalidRequest):
            run(router, "m")
    assert router.circuits() == {"a": "closed"}


def test_a_provider_at_its_cap_is_passed_over_and_alone_is_503(make_router: RouterFactory) -> None:
    busy = Scripted("busy")
    busy.max_concurrency = 1
    router = make_router(busy, Scripted("free"), file={"chains": {"c": ["busy/m", "free/m"]}})
    trace, call = Trace(time.perf_counter()), Call()
    held = router.run(router.resolve("busy/m"), lambda target: target.name, call, trace)
    outcome, trace = run(router, "c")
    assert outcome.target.name == "free/m"
    passed_over = {"event": "provider_busy", "provider": "busy", "cap": 1}
    assert {**trace.events[0], "at_ms": 0} == {**passed_over, "at_ms": 0}
    with pytest.raises(NoFreeSlot):
        run(router, "busy/m")
    held.release()
    assert run(router, "busy/m")[0].target.name == "busy/m"


def test_failed_attempts_are_counted_by_provider_and_error(make_router: RouterFactory) -> None:
    router = make_router(Scripted("counted", BadResponse("1"), "ok"))
    labels = {"provider": "counted", "error_type": "provider_bad_response"}
    assert REGISTRY.get_sample_value("chat_completion_errors_total", labels) == 0
    run(router, "m")
    assert REGISTRY.get_sample_value("chat_completion_errors_total", labels) == 1
    assert (
        REGISTRY.get_sample_value(
            "provider_retries_total", {"provider": "counted", "reason": "provider_bad_response"}
        )
        == 1
    )


def in_flight(provider: str) -> float | None:
    return REGISTRY.get_sample_value("provider_calls_in_flight", {"provider": provider})


def test_a_call_that_its_client_left_is_no_longer_in_flight(make_router: RouterFactory) -> None:
    router = make_router(Scripted("left"))

    def leave(_: Target) -> str:
        assert in_flight("left") == 1
        raise CallCancelled

    with pytest.raises(CallCancelled):
        router.run(router.resolve("m"), leave, Call(), Trace(time.perf_counter()))
    assert in_flight("left") == 0
    assert router.circuits() == {"left": "closed"}


def test_a_provider_at_its_cap_loses_no_trial_of_its_breaker(make_router: RouterFactory) -> None:
    provider = Scripted("busy", BadResponse("down"), "up")
    router = make_router(provider, breaker_min_calls=1, retries=0, breaker_open_seconds=0.05)
    begun, go = threading.Event(), threading.Event()

    def straggle(target: Target) -> str:
        begun.set()
        assert go.wait(60)
        return "late"

    provider.max_concurrency = 2
    straggler = threading.Thread(
        target=lambda: router.run(
            router.resolve("m"), straggle, Call(), Trace(time.perf_counter())
        ).release()
    )
    straggler.start()
    assert begun.wait(60)
    with pytest.raises(BadResponse):
        run(router, "m")
    wait_until(lambda: router.circuits() == {"busy": "half_open"})
    provider.max_concurrency = 1
    with pytest.raises(NoFreeSlot):
        run(router, "m")
    assert in_flight("busy") == 1
    go.set()
    straggler.join(60)
    assert run(router, "m")[0].value.body == b"up"
    assert router.circuits() == {"busy": "closed"}
    assert in_flight("busy") == 0


def test_a_stream_that_ends_without_a_verdict_is_no_longer_in_flight(
    make_router: RouterFactory,
) -> None:
    provider = Scripted("streamed")
    provider.max_concurrency = 1
    router = make_router(provider)
    outcome = router.run(
        router.resolve("m"), lambda _: "begun", Call(), Trace(time.perf_counter()), streamed=True
    )
    assert in_flight("streamed") == 1
    age = "provider_oldest_call_age_seconds"
    assert REGISTRY.get_sample_value(age, {"provider": "streamed"}) == 0, "it has begun"
    outcome.release()
    outcome.release()
    assert in_flight("streamed") == 0
    assert run(router, "m")[0].value.body == b"ok"


def test_a_stream_that_breaks_off_counts_against_its_provider(make_router: RouterFactory) -> None:
    router = make_router(Scripted("breaks"), breaker_min_calls=1)
    trace = Trace(time.perf_counter())
    outcome = router.run(router.resolve("m"), lambda _: "begun", Call(), trace, streamed=True)
    labels = {"provider": "breaks", "error_type": "provider_bad_response"}
    before = REGISTRY.get_sample_value("chat_completion_errors_total", labels) or 0
    router.broke_off(BadResponse("cut"), outcome, trace)
    outcome.release()
    assert router.circuits() == {"breaks": "open"}
    assert REGISTRY.get_sample_value("chat_completion_errors_total", labels) == before + 1
    assert trace.events[-1]["event"] == "failed"


def test_the_last_target_of_a_chain_is_asked_again(make_router: RouterFactory) -> None:
    a, b = Scripted("a", BadResponse("down")), Scripted("b", BadResponse("once"), "from b")
    outcome, trace = run(make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}), "c")
    assert outcome.value.body == b"from b"
    assert (a.calls, b.calls, trace.attempts) == (1, 2, 3)


def test_a_provider_that_may_be_generating_is_asked_under_no_other_name(
    make_router: RouterFactory,
) -> None:
    silent = BadResponse("silent")
    silent.reach = Reach.SILENT
    a, b = Scripted("a", silent, models=["m", "n"]), Scripted("b", "from b")
    router = make_router(a, b, file={"chains": {"c": ["a/m", "a/n", "b/m"], "d": ["a/m", "a/n"]}})
    outcome, trace = run(router, "c")
    assert outcome.value.body == b"from b"
    assert (a.calls, b.calls) == (1, 1)
    assert trace.events[0]["may_bill"] is True
    with pytest.raises(BadResponse, match="silent"):
        run(router, "d")
    assert a.calls == 2


def test_a_provider_that_may_be_generating_is_no_further_target_for_another(
    make_router: RouterFactory,
) -> None:
    silent = BadResponse("silent")
    silent.reach = Reach.SILENT
    a = Scripted("a", silent, models=["m", "n"])
    b = Scripted("b", BadResponse("once"), "from b")
    router = make_router(a, b, file={"chains": {"c": ["a/m", "b/m", "a/n"]}})
    outcome, _ = run(router, "c")
    assert outcome.value.body == b"from b"
    assert (a.calls, b.calls) == (1, 2)


def test_an_open_target_is_no_reason_to_give_up_the_one_before(make_router: RouterFactory) -> None:
    a, b = Scripted("a", BadResponse("once"), "from a"), Scripted("b", BadResponse("down"))
    router = make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}, breaker_min_calls=2)
    for _ in range(2):
        with pytest.raises(BadResponse):
            run(router, "b/m", Call(deadline=time.monotonic()))
    assert router.circuits()["b"] == "open"
    assert run(router, "c")[0].value.body == b"from a"
    assert a.calls == 2


def test_a_pause_that_the_provider_asks_for_is_waited_and_noted(make_router: RouterFactory) -> None:
    provider = Scripted("a", RateLimited("soon", retry_after=0.3), "ok")
    began = time.monotonic()
    _, trace = run(make_router(provider), "m", Call(client_gone=lambda: False))
    assert time.monotonic() - began >= 0.3
    retry = next(event for event in trace.events if event["event"] == "retry")
    assert (retry["provider"], retry["after_ms"]) == ("a", 300)


def test_a_pause_ends_on_time_and_not_at_the_next_look_for_the_client(
    make_router: RouterFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1024.0

    def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds > 0
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(routing_module, "time", clock)
    _, trace = run(make_router(Scripted("a", RateLimited("soon", retry_after=0.625), "ok")), "m")
    assert now == 1024.625
    assert trace.events[-1]["after_ms"] == 625


def test_with_one_provider_open_and_another_at_its_cap_the_cap_is_told(
    make_router: RouterFactory,
) -> None:
    down, busy = Scripted("down", BadResponse("down")), Scripted("busy")
    busy.max_concurrency = 1
    chains = {"c": ["down/m", "busy/m"], "d": ["busy/m", "down/m"]}
    router = make_router(down, busy, file={"chains": chains}, breaker_min_calls=1, retries=0)
    assert REGISTRY.get_sample_value("provider_calls_max", {"provider": "busy"}) == 1
    held = router.run(
        router.resolve("busy/m"), lambda _: "held", Call(), Trace(time.perf_counter())
    )
    with pytest.raises(BadResponse):
        run(router, "down/m")
    for chain in chains:
        with pytest.raises(NoFreeSlot) as refused:
            run(router, chain)
        assert refused.value.retry_after == 1
    held.release()
    assert run(router, "c")[0].target.name == "busy/m"


def test_of_several_open_circuits_the_soonest_is_waited_for(make_router: RouterFactory) -> None:
    file = {"chains": {"c": ["a/m", "b/m"]}}
    a, b = Scripted("a", BadResponse("1")), Scripted("b", BadResponse("2"))
    router = make_router(a, b, file=file, breaker_min_calls=1, retries=0, breaker_open_seconds=1000)
    with pytest.raises(BadResponse):
        run(router, "a/m")
    wait_until(lambda: retry_after(router, "a/m") < 999.9)
    with pytest.raises(BadResponse):
        run(router, "b/m")
    before = retry_after(router, "a/m")
    assert before >= retry_after(router, "c") >= retry_after(router, "a/m")


def retry_after(router: Router, model: str) -> float:
    with pytest.raises(CircuitOpen) as refused:
        run(router, model)
    return refused.value.retry_after or 0.0


# -- a target that cannot take the request's form -----------------------------------------------
def prepared(router: Router, model: str, *unfit: str) -> tuple[Outcome[str], Trace]:
    """A call that the targets `unfit` cannot take."""

    def prepare(target: Target) -> None:
        if target.name in unfit:
            raise InvalidRequest(f"{target.name} cannot take it")

    trace = Trace(time.perf_counter())
    targets = router.resolve(model)
    outcome = router.run(targets, lambda target: target.name, Call(), trace, prepare=prepare)
    outcome.release()
    return outcome, trace


def test_a_target_that_cannot_take_a_request_is_passed_over(make_router: RouterFactory) -> None:
    router = make_router(Scripted("a"), Scripted("b"), file={"chains": {"c": ["a/m", "b/m"]}})
    outcome, trace = prepared(router, "c", "a/m")
    assert outcome.value == "b/m"
    assert trace.attempts == 1
    assert [event["event"] for event in trace.events] == ["unfit"]
    with pytest.raises(InvalidRequest, match="a/m cannot"):
        prepared(router, "c", "a/m", "b/m")


def test_where_the_fitting_target_is_open_that_is_told_and_not_what_does_not_fit(
    make_router: RouterFactory,
) -> None:
    a, b = Scripted("a"), Scripted("b", BadResponse("down"))
    file = {"chains": {"c": ["a/m", "b/m"]}}
    router = make_router(a, b, file=file, breaker_min_calls=1, retries=0)
    with pytest.raises(BadResponse):
        run(router, "b/m")
    with pytest.raises(CircuitOpen):
        prepared(router, "c", "a/m")


def test_a_target_that_cannot_take_a_request_is_no_reason_to_give_up_the_one_before(
    make_router: RouterFactory,
) -> None:
    a = Scripted("a", BadResponse("once"), "ok")
    router = make_router(a, Scripted("b"), file={"chains": {"c": ["a/m", "b/m"]}})

    def prepare(target: Target) -> None:
        if target.name == "b/m":
            raise InvalidRequest("no")

    trace = Trace(time.perf_counter())
    outcome = router.run(
        router.resolve("c"),
        lambda target: target.provider.complete(ChatRequest(target.model, {}, call=Call())),
        Call(),
        trace,
        prepare=prepare,
    )
    outcome.release()
    assert (a.calls, outcome.target.name, trace.attempts) == (2, "a/m", 2)


def test_a_target_that_was_passed_over_is_asked_neither_then_nor_later(
    make_router: RouterFactory,
) -> None:
    a, b = Scripted("a", BadResponse("down")), Scripted("b")
    router = make_router(a, b, file={"chains": {"c": ["a/m", "b/m"]}}, retries=1)
    looked: list[str] = []

    def prepare(target: Target) -> None:
        looked.append(target.name)
        if target.name == "b/m":
            raise InvalidRequest("no")

    def ask(target: Target) -> ChatResponse:
        return target.provider.complete(ChatRequest(target.model, {}, call=Call()))

    trace = Trace(time.perf_counter())
    with pytest.raises(BadResponse):
        router.run(router.resolve("c"), ask, Call(), trace, prepare=prepare)
    assert (a.calls, b.calls) == (2, 0)
    assert looked.count("b/m") == 1
    assert [event["event"] for event in trace.events].count("unfit") == 1


# -- what an attempt leaves behind ----------------------------------------------------------------
def test_a_fallback_is_counted_and_its_attempts_are_kept(
    make_router: RouterFactory, caplog: pytest.LogCaptureFixture
) -> None:
    failed = BadResponse("down")
    failed.upstream_status = 502
    a, b = Scripted("from", failed), Scripted("to")
    labels = {"from_provider": "from", "to_provider": "to"}
    name = "chat_fallbacks_total"
    before = REGISTRY.get_sample_value(name, labels) or 0
    router = make_router(a, b, file={"chains": {"c": ["from/m", "to/m"]}})
    _, trace = run(router, "c")
    assert REGISTRY.get_sample_value(name, labels) == before + 1
    assert [event["event"] for event in trace.events] == ["failed", "fallback"]
    noted = trace.events[0]
    assert (noted["model"], noted["upstream_status"], noted["took_ms"] >= 0) == ("m", 502, True)
    assert "may_bill" not in noted
    assert [call.error for call in trace.calls] == ["provider_bad_response", ""]
    assert len({call.span_id for call in trace.calls}) == 2
    spent = 0.0
    for call in trace.calls:
        assert call.ended is not None
        assert not call.slow
        spent += call.ended - call.started
    assert trace.provider_seconds == pytest.approx(spent)
    (record,) = [one for one in caplog.records if one.message == "provider_call_failed"]
    assert (record.__dict__["provider"], record.__dict__["attempt"]) == ("from", 1)
    assert record.__dict__["duration_ms"] == pytest.approx(noted["took_ms"], abs=0.06)


def test_a_call_says_that_it_is_alive_and_under_which_span(make_router: RouterFactory) -> None:
    router, call, trace = make_router(Scripted("a")), Call(), Trace(time.perf_counter())
    seen = []

    def ask(_: Target) -> None:
        (running,) = trace.calls
        seen.append((call.span_id, running.ended, running.slow))

    outcome = router.run(router.resolve("m"), ask, call, trace)
    assert seen == [(trace.calls[0].span_id, None, False)]
    assert call.alive is not None
    call.alive()
    outcome.release()


def test_the_times_of_an_attempt_are_told_in_milliseconds(
    make_router: RouterFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.1
    router = make_router(Scripted("timed"), retries=0)
    monkeypatch.setattr(attempt_module, "time", SimpleNamespace(perf_counter=lambda: now))

    def ask(_: Target) -> str:
        nonlocal now
        now += 0.251374
        raise BadResponse("down")

    trace = Trace(0.05)
    with pytest.raises(BadResponse):
        router.run(router.resolve("m"), ask, Call(), trace)
    assert [(event["at_ms"], event["took_ms"]) for event in trace.events] == [(301.4, 251.4)]
    (record,) = [one for one in caplog.records if one.message == "provider_call_failed"]
    assert record.__dict__["duration_ms"] == 251.37
    assert trace.provider_seconds == pytest.approx(0.251374)


def test_a_call_that_its_provider_took_too_long_for_is_kept_as_a_slow_one(
    make_router: RouterFactory,
) -> None:
    router = make_router(Scripted("slow"), breaker_min_calls=1, breaker_slow_answer=0.05)
    trace = Trace(time.perf_counter())

    def ask(_: Target) -> bool:
        return bool(wait_until(lambda: router.circuits() == {"slow": "open"}, 60))

    outcome = router.run(router.resolve("m"), ask, Call(), trace)
    outcome.release()
    assert [call.slow for call in trace.calls] == [True]


def test_when_a_call_is_slow_follows_from_its_time_limits_unless_it_is_set(
    make_router: RouterFactory,
) -> None:
    def limits(router: Router, name: str) -> tuple[float, float]:
        breaker = router._guards[name].breaker
        return breaker._slow_first_token, breaker._slow_answer

    plain = make_router(Scripted("a"), timeout_first_token=40.0)
    assert limits(plain, "a")[0] == 30
    file = {"providers": {"own": {"kind": "openai", "base_url": "http://127.0.0.1:1/v1",
            "timeout_first_token": 8.0, "timeout_answer": 20.0}}}  # fmt: skip
    assert limits(make_router(Scripted("own"), file=file), "own") == (6, 15)
    given = {"breaker_slow_first_token": 3.0, "breaker_slow_answer": 5.0}
    assert limits(make_router(Scripted("own"), file=file, **given), "own") == (3, 5)


def test_rehearsed_faults_never_open_a_breaker(make_router: RouterFactory) -> None:
    file = {"providers": {"fault": {"kind": "faults"}}}
    router = make_router(
        Scripted("fault", BadResponse("rehearsed")), file=file, breaker_min_calls=1, retries=0
    )
    for _ in range(100):
        with pytest.raises(BadResponse):
            run(router, "m")
    assert router.circuits() == {"fault": "closed"}
