"""`goblin-assistant prove` finds each promise kept by a right deployment, and broken by one that is
wrong in that respect."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from goblin_assistant.commands.prove.command import NAMES
from goblin_assistant.commands.prove.deployment import KEY_COMMAND, ROWS, Deployment
from tests.commands.prove.conftest import Deployments, run
from tests.commands.prove.stubborn_proxy import stubborn_proxy
from tests.conftest import ROOT
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.monitoring import running_alertmanager
from tests.support.services import free_port

TOTALS = dict.fromkeys(
    (
        "requests", "failed_requests", "prompt_tokens", "completion_tokens", "cost_microusd",
        "unpriced_requests",
    ), 0,
)  # fmt: skip
PAGE = (ROOT / "docs" / "prove.md").read_text()


@contextmanager
def watched(folder: Path, action: Callable[[], None]) -> Iterator[str]:
    """A command that has `action` run here, and ends when that has ended."""
    asked, done, over = folder / "asked", folder / "done", threading.Event()

    def serve() -> None:
        while not over.wait(0.05):
            if asked.exists():
                asked.unlink()
                action()
                done.touch()
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"touch '{asked}'; until [ -e '{done}' ]; do sleep 0.1; done"
    finally:
        over.set()
        thread.join()


def test_a_right_deployment_keeps_every_promise(deployments: Deployments, tmp_path: Path) -> None:
    tried = deployments.prove_undisturbed(
        "right", "--prices", "1,2", "--save", str(tmp_path / "report")
    )
    words = {one["name"]: one["verdict"] for one in tried.report["promises"]}
    needs_more = dict.fromkeys(("alert", "drain"), "not tried")
    assert words == {**dict.fromkeys(NAMES, "kept"), **needs_more}, tried.output
    assert tried.code == 0
    limits = next(one for one in tried.report["promises"] if one["name"] == "limits")
    assert limits["figures"]["limit"] == 120
    page = (tmp_path / "report" / "prove.md").read_text()
    assert "6 kept, 0 broken, 2 not tried" in page
    assert (tmp_path / "report" / "prove.json").read_text() == tried.output


def test_the_record_of_a_chat_before_is_none_of_this_promise(fake_upstream: FakeUpstream) -> None:
    for requests_so_far in (3, 3, 4, 4, 4):
        fake_upstream.reply(Reply.json(200, {"totals": {**TOTALS, "requests": requests_so_far}}))
    assert Deployment(fake_upstream.url, "key").settled_usage().requests == 4
    assert len(fake_upstream.requests) == 5


@pytest.fixture
def fast_key(deployments: Deployments) -> str:
    """A key with room for many chats a minute, so that a load is soon held."""
    return deployments.new_key(KEY_COMMAND.replace("minute 120", "minute 900"))


def test_a_rolling_restart_loses_nothing(
    deployments: Deployments, tmp_path: Path, fast_key: str
) -> None:
    with watched(tmp_path, deployments.fleet.restart_one_by_one) as command:
        tried = deployments.prove("right", "--only", "drain", "--drain", command, key=fast_key)
    assert tried.verdict("drain").startswith("kept: "), tried.output
    assert ", 0 lost;" in tried.verdict("drain")


@pytest.mark.parametrize(
    ("promise", "proxy", "said"),
    [
        ("correlation", "own_ids", "the provider got"),
        ("correlation", "no_ids", "without X-Correlation-ID"),
        ("streams", "buffering", "proxy_buffering off"),
        ("idempotency", "alone", "REDIS_URL"),
        ("limits", "alone", "REDIS_URL"),
    ],
)
def test_a_deployment_that_breaks_a_promise_is_told_which(
    promise: str, proxy: str, said: str, deployments: Deployments
) -> None:
    tried = deployments.prove(proxy, "--only", promise)
    assert tried.verdict(promise).startswith("broken: ")
    assert said in tried.verdict(promise)
    assert tried.code == 1


def test_a_proxy_that_reads_on_breaks_the_promise_of_ended_calls(deployments: Deployments) -> None:
    with stubborn_proxy(deployments.fleet.instances[0].port) as url:
        tried = run(
            "--url", url, "--key", deployments.new_key(), "--json", "--only", "disconnect"
        )  # fmt: skip
    assert tried.verdict("disconnect").startswith("broken: no usage record within ")


def test_instances_with_different_prices_break_the_promise_of_exact_costs(
    deployments: Deployments,
) -> None:
    tried = deployments.prove("alone", "--only", "budget")
    assert re.search(r"broken: .*micro-dollars.*it should be", tried.verdict("budget"))


def test_other_prices_than_the_operators_break_the_promise_of_exact_costs(
    deployments: Deployments,
) -> None:
    tried = deployments.prove("right", "--only", "budget", "--prices", "1,3")
    assert re.search(r"broken: .*by --prices it is", tried.verdict("budget"))


def test_a_restart_that_kills_is_reported_with_what_it_lost(
    deployments: Deployments, tmp_path: Path, fast_key: str
) -> None:
    def kill() -> None:
        deployments.fleet.stop()
        deployments.fleet.start()

    with watched(tmp_path, kill) as command:
        tried = deployments.prove("right", "--only", "drain", "--drain", command, key=fast_key)
    assert tried.verdict("drain").startswith("broken: ")
    assert "Lost: " in tried.verdict("drain")


def test_a_restart_that_fails_is_broken_with_what_it_said(
    deployments: Deployments, fast_key: str
) -> None:
    tried = deployments.prove(
        "right", "--only", "drain", "--drain", "echo 'no such unit' >&2; exit 5", key=fast_key
    )
    assert "exit code 5: no such unit" in tried.verdict("drain")


def test_headers_that_the_proxy_drops_are_named(deployments: Deployments) -> None:
    tried = deployments.prove("no_limit_headers", "--only", "limits")
    assert tried.verdict("limits").startswith("not tried: chats carry no X-RateLimit")
    assert tried.code == 0


@pytest.fixture
def routes() -> str:
    """The route and the receiver that docs/prove.md gives, as YAML."""
    (found,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)
    return found


def test_an_alert_arrives_by_the_pages_route(tmp_path: Path, routes: str) -> None:
    import yaml

    port = free_port()
    config = yaml.safe_load(routes.replace("prove.example.com:9999", f"127.0.0.1:{port}"))
    with running_alertmanager(config, tmp_path / "right") as url:
        tried = run(
            "--url", "http://127.0.0.1:1", "--key", "none", "--only", "alert", "--json",
            "--alertmanager", url, "--listen", f"127.0.0.1:{port}",
        )  # fmt: skip
        assert tried.verdict("alert").startswith("kept: GoblinProve arrived")
        assert tried.code == 0
    config["route"]["routes"] = []
    with running_alertmanager(config, tmp_path / "wrong") as url:
        tried = run(
            "--url", "http://127.0.0.1:1", "--key", "none", "--only", "alert", "--json",
            "--alertmanager", url, "--listen", f"127.0.0.1:{port}", "--alert-seconds", "3",
        )  # fmt: skip
        assert tried.verdict("alert").startswith("broken: no notification")
        assert tried.code == 1


def test_an_alertmanager_that_does_not_answer_is_said() -> None:
    tried = run(
        "--url", "http://127.0.0.1:1", "--key", "none", "--only", "alert", "--json",
        "--alertmanager", "http://127.0.0.1:1", "--listen", f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    assert tried.verdict("alert").startswith("not tried: --alertmanager http://127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://127.0.0.1:1", "", "Check --url"),
        ("127.0.0.1", "", "http:// or https://"),
        ("{url}/nowhere", "", "the address under which clients reach"),
        ("{url}", "gbl_wrong", KEY_COMMAND),
    ],
)
def test_what_cannot_start_says_what_to_do(
    url: str, key: str, said: str, deployments: Deployments
) -> None:
    tried = run("--url", url.format(url=deployments.urls["right"]), "--key", key or "none")
    assert said in tried.errors
    assert tried.output == ""
    assert tried.code == 2


def test_a_key_without_echo_is_told_how_to_make_one(deployments: Deployments) -> None:
    key = deployments.new_key(KEY_COMMAND.replace("--model echo", "--model gpt-4o"))
    tried = deployments.prove("right", key=key)
    assert "may not use the model echo" in tried.errors
    assert KEY_COMMAND in tried.errors
    assert tried.code == 2


def test_a_key_without_a_budget_leaves_that_promise_untried(deployments: Deployments) -> None:
    key = deployments.new_key(KEY_COMMAND.replace("--monthly-budget-usd 1 ", ""))
    tried = deployments.prove("right", "--only", "budget", key=key)
    assert tried.verdict("budget").startswith("not tried: the key has no budget")


def test_a_model_that_is_not_paced_leaves_its_promises_untried(deployments: Deployments) -> None:
    tried = deployments.prove("right", "--only", "streams", "--paced-model", "echo")
    assert "too fast to tell" in tried.verdict("streams")
    tried = deployments.prove("right", "--only", "streams", "--paced-model", "prove/none")
    assert tried.verdict("streams").startswith("not tried: ")


def test_the_command_writes_markdown_and_its_progress_apart(deployments: Deployments) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "goblin_assistant", "prove", "--only", "correlation",
            "--url", deployments.urls["right"], "--key", deployments.new_key(),
        ],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.startswith("# Promises, tried\n")
    assert "| `correlation` |" in done.stdout
    assert done.stderr.startswith("kept ")
    assert done.returncode == 0


def test_the_page_gives_the_key_and_the_rows_that_the_command_names() -> None:
    assert KEY_COMMAND in PAGE.replace("\\\n    ", "")
    assert ROWS in PAGE
