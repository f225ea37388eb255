"""The benchmarks' arithmetic and page, and their two compiled programs. No timing is asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from benchmarks import native, pairs
from benchmarks.page import replace_section, with_section, with_sections_of
from benchmarks.report import all_checks, checks_as_dicts, page, samples_as_dicts, verdict
from benchmarks.results import (
    Check,
    Sample,
    Spread,
    at_least,
    at_most,
    compare_checks,
    inverse,
    markdown_table,
    ratio,
    select,
)
from benchmarks.scale import _flat_check
from benchmarks.servers import chat_body
from tests.conftest import ROOT


def sample(
    server: str,
    cpu_us: float,
    *,
    kind: str = "chat",
    concurrency: int = 32,
    round: int = 0,
    p50: float = 1.0,
) -> Sample:
    """A sample with these figures; the others do not matter."""
    return Sample(server, kind, concurrency, round, cpu_us, rate=100.0, p50=p50, p95=2 * p50)


def test_ratio_compares_within_a_round_and_takes_the_median() -> None:
    samples = [sample("bare", cpu, round=n) for n, cpu in enumerate((100, 200, 400))]
    samples += [sample("goblin", cpu, round=n) for n, cpu in enumerate((200, 200, 600))]
    assert ratio(samples, ("goblin", "chat"), ("bare", "chat"), 32) == Spread(1.5, 1.0, 2.0)


def test_ratio_leaves_out_rounds_that_only_one_side_has() -> None:
    samples = [
        sample("bare", 100, round=0),
        sample("goblin", 150, round=0),
        sample("goblin", 900, round=1),
    ]
    assert ratio(samples, ("goblin", "chat"), ("bare", "chat"), 32) == Spread(1.5, 1.5, 1.5)


def test_ratio_of_what_was_not_measured_is_none() -> None:
    assert ratio([sample("bare", 100)], ("goblin", "chat"), ("bare", "chat"), 32) is None
    assert inverse(None) is None


def test_select_keeps_kinds_and_levels_apart() -> None:
    samples = [
        sample("bare", 1),
        sample("bare", 2, kind="stream"),
        sample("bare", 3, concurrency=1),
    ]
    assert [found.cpu_us for found in select(samples, "bare", "chat", 32)] == [1]


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (1.4, "stretch met"),
        (1.5, "stretch met"),
        (2.0, "met"),
        (2.01, "MISSED"),
        (None, "not measured"),
    ],
)
def test_at_most_tells_met_from_missed(value: float | None, outcome: str) -> None:
    spread = None if value is None else Spread.of([value])
    assert at_most("x", spread, 2.0, stretch=1.5).outcome == outcome


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(15.0, "stretch met"), (9.0, "met"), (8.9, "MISSED"), (None, "not measured")],
)
def test_at_least_tells_met_from_missed(value: float | None, outcome: str) -> None:
    spread = None if value is None else Spread.of([value])
    assert at_least("x", spread, 9.0, stretch=15.0).outcome == outcome


def test_every_target_of_the_comparison_is_in_the_verdict_even_unmeasured() -> None:
    checks = compare_checks([], {"cold_start": {}, "rss": {}})
    assert {check.outcome for check in checks} == {"not measured"}
    assert len(checks) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--render"], "nothing has been measured here yet"),
        (["--only", "compare,nonsense"], "--only: unknown: nonsense"),
        (["--kinds", "nonsense"], "--kinds: unknown: nonsense"),
        (["--rounds", "0"], "--rounds: at least 1"),
        (["--litellm-venv", "/nowhere"], "there is no bin/litellm in it"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured_or_written(
    tmp_path: Path, options: list[str], said: str
) -> None:
    page = tmp_path / "page.md"
    command = [
        sys.executable,
        "-m",
        "benchmarks.run",
        "--cache",
        str(tmp_path / "cache"),
        "--page",
        str(page),
        *options,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr
    assert not page.exists()
    assert not (tmp_path / "cache").exists()


def test_a_missed_target_stands_out_on_the_page() -> None:
    samples = [sample("bare", 100), sample("goblin", 300), sample("litellm", 900)]
    results = {
        "compare": {
            "about": {
                "when": "now",
                "revision": "abc",
                "load_average": "0.1",
                "rounds": 1,
                "seconds": 1.0,
            },
            "samples": samples_as_dicts(samples),
            "figures": {
                "cold_start": {"goblin": [0.5]},
                "rss": {"goblin": 60.0},
                "rss_idle": {"goblin": 50.0},
            },
            "problems": ["goblin chat c=32: 3 failures"],
        },
        "usage_rows": {
            "about": {"when": "now", "revision": "abc", "load_average": "0.1"},
            "figures": {"0 rows": 600.0},
            "checks": checks_as_dicts(
                [Check("CPU per chat, 0 to 5 usage records", "+1 %", "flat", "met")]
            ),
        },
        "machine": {"processor": "one"},
    }
    text = page(results)
    assert "times the bare function | 3.00x | <= 2x (stretch 1.5x) | **MISSED** |" in text
    assert "| cold start | 0.50 s | <= 1 s | met |" in text
    assert "## Usage records in the database" in text
    assert "3 failures" in verdict(results)
    assert [check.outcome for check in all_checks(results)].count(
        "MISSED"
    ) == 2  # 300 is also more than 900 / 9


def test_a_section_is_replaced_in_its_place_and_the_rest_of_the_page_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Page\n\n## Of another command\n")
    replace_section(path, "one", "## One\n\nold")
    replace_section(path, "two", "## Two")
    replace_section(path, "one", "## One\n\nnew \\1")
    assert path.read_text() == (
        "# Page\n\n## Of another command\n\n"
        "<!-- begin one -->\n## One\n\nnew \\1\n<!-- end one -->\n\n"
        "<!-- begin two -->\n## Two\n<!-- end two -->\n"
    )


def test_a_rewritten_page_keeps_the_sections_of_other_commands() -> None:
    old = with_section(with_section("# Page\n\nold\n", "one", "## One"), "two", "## Two")
    new = with_sections_of("# Page\n\nnew\n", old)
    assert new == with_section(with_section("# Page\n\nnew\n", "one", "## One"), "two", "## Two")
    assert with_sections_of("# Page\n", "# Page without sections\n") == "# Page\n"


def test_growth_within_the_noise_is_flat_and_beyond_it_is_not() -> None:
    quiet = {"1": Spread(100, 99, 101), "100,000": Spread(104, 103, 105)}
    grown = {"1": Spread(100, 99, 101), "100,000": Spread(130, 129, 131)}
    noisy = {"1": Spread(100, 80, 120), "100,000": Spread(130, 110, 150)}
    assert [_flat_check("x", spreads).outcome for spreads in (quiet, grown, noisy)] == [
        "met",
        "MISSED",
        "met",
    ]


def test_a_table_has_a_line_for_its_head_one_for_its_columns_and_one_a_row() -> None:
    assert markdown_table(("a", "b"), [("1", "2")]).splitlines() == [
        "| a | b |",
        "|---|---:|",
        "| 1 | 2 |",
    ]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where upstream and loadgen are, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("programs")
    native.build(folder)
    return folder


SHAPES: tuple[native.Shape, ...] = ("providers", "lean")


@pytest.mark.parametrize("shape", SHAPES)
def test_loadgen_counts_answers_in_one_piece(programs: Path, shape: native.Shape) -> None:
    request = native.http_request("POST", "/v1/chat/completions", {}, chat_body("bench"))
    with native.upstream(programs, chunks=3, interval_us=1000, core=None, shape=shape) as port:
        load = native.finish_load(
            native.start_load(
                programs, port, request, connections=4, seconds=60, core=None, options=("-n", "100")
            )
        )
    assert (load.requests, load.events, load.failures, load.statuses) == (100, 0, 0, {"200": 100})
    assert load.clean


@pytest.mark.parametrize("shape", SHAPES)
def test_loadgen_counts_the_events_of_streams(programs: Path, shape: native.Shape) -> None:
    request = native.http_request(
        "POST", "/v1/chat/completions", {}, chat_body("bench", stream=True)
    )
    with native.upstream(programs, chunks=20, interval_us=500, core=None, shape=shape) as port:
        load = native.finish_load(
            native.start_load(
                programs,
                port,
                request,
                connections=5,
                seconds=60,
                core=None,
                options=("-n", "10", "-r", "20"),
            )
        )
    # Twenty with text, then finish reason, usage and [DONE].
    assert (load.requests, load.events, load.failures) == (10, 10 * 23, 0)


def test_the_upstream_answers_as_a_provider_does(programs: Path) -> None:
    """Chunked, with the headers of OpenAI's API, the same text as the lean answer has."""
    answers = {}
    for shape in SHAPES:
        with native.upstream(programs, chunks=3, interval_us=0, core=None, shape=shape) as port:
            answers[shape] = requests.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                data=chat_body("bench"),
                timeout=10,
            )
    full, lean = answers["providers"], answers["lean"]
    assert full.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in full.headers
    assert len(full.headers) == 24
    assert {"x-request-id", "openai-processing-ms", "cf-ray", "alt-svc"} <= {
        name.lower() for name in full.headers
    }
    assert set(lean.headers) == {"Content-Type", "Content-Length"}
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in (full, lean)}
    assert texts == {"The quick brown fox jumps over the lazy dog."}
    assert full.json()["usage"]["total_tokens"] == lean.json()["usage"]["total_tokens"] == 22


@pytest.mark.parametrize("shape", SHAPES)
def test_no_two_events_of_a_stream_have_the_same_text(programs: Path, shape: native.Shape) -> None:
    with native.upstream(programs, chunks=200, interval_us=0, core=None, shape=shape) as port:
        text = requests.post(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            data=chat_body("bench", stream=True),
            timeout=10,
        ).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events.pop() == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    texts = [choice["delta"]["content"] for choice in choices if choice["delta"]]
    assert len(set(texts)) == len(texts) == 200
    assert texts[:2] == [" the 0", " quick 1"]


def test_loadgen_reports_a_refused_connection_as_failures(programs: Path) -> None:
    request = native.http_request("GET", "/health", {})
    load = native.finish_load(
        native.start_load(
            programs, native.free_port(), request, connections=2, seconds=0.3, core=None
        )
    )
    assert load.requests == 0
    assert load.failures > 0
    assert not load.clean


def test_without_a_compiler_the_benchmarks_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(native.NoCompiler, match="apt-get install gcc"):
        native.build(tmp_path)


def measured(setting: pairs.Setting, **cpu: float) -> pairs.Round:
    return pairs.Round(setting, cpu)


CHAT = pairs.Setting("chat", 32, 0, "lean", "before")


def test_each_checkout_is_compared_with_the_first_within_its_round() -> None:
    text = pairs.table(
        [
            measured(CHAT, before=100.0, one=110.0, other=50.0),
            measured(CHAT, before=200.0, one=220.0, other=100.0),
        ]
    )
    assert "one: 1.100 (1.100 to 1.100), 2 pairs" in text
    assert "other: 0.500 (0.500 to 0.500), 2 pairs" in text


def test_rounds_of_several_runs_are_collected_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rounds.json"
    rounds = [
        measured(CHAT, before=100.0, after=120.0),
        measured(pairs.Setting("chat", 1, 500, "providers", "before"), before=100.0, after=150.0),
    ]
    pairs.save(path, rounds)
    assert pairs.load(path) == rounds
    assert pairs.load(tmp_path / "missing.json") == []
    text = pairs.table(pairs.load(path))
    assert text.index("chat, 32 connections, upstream lean, against before") < text.index(
        "after: 1.200"
    )
    assert text.index("500 idle connections") < text.index("after: 1.500")
