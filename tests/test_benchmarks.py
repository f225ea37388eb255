"""The benchmarks' arithmetic and page, and their two compiled programs. No timing is asserted."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from benchmarks import installation, instances, native, page_switch, pairs, rows, streams, traces
from benchmarks.page import replace_section, with_section, with_sections_of
from benchmarks.report import all_checks, checks_as_dicts, page, samples_as_dicts, verdict
from benchmarks.results import (
    Check,
    Sample,
    Spread,
    at_least,
    at_most,
    flat,
    inverse,
    markdown_table,
    ratio,
    samples_table,
    select,
)
from benchmarks.servers import chat_body
from benchmarks.targets import compare_checks
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


@pytest.mark.parametrize(
    ("low", "median", "high", "said"),
    [
        (1.7, 1.8, 1.9, "met"),
        (1.7, 1.8, 2.1, "met, within the run's noise"),
        (1.9, 2.2, 2.3, "MISSED, within the run's noise"),
        (1.2, 1.4, 1.45, "stretch met"),
        (1.2, 1.4, 1.6, "stretch met, within the run's noise"),
    ],
)
def test_a_figure_whose_target_lies_within_the_rounds_says_so(
    low: float, median: float, high: float, said: str
) -> None:
    assert at_most("x", Spread(median, low, high), 2.0, stretch=1.5).said == said
    below = Spread(1 / median, 1 / high, 1 / low)
    assert at_least("x", below, 1 / 2.0, stretch=1 / 1.5).said == said


def test_every_target_of_the_comparison_is_in_the_verdict_even_unmeasured() -> None:
    checks = compare_checks([], {"cold_start": {}, "rss": {}})
    assert {check.outcome for check in checks} == {"not measured"}
    assert not any(check.within_noise for check in checks)
    assert len(checks) == 11


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


def comparison_of(samples: list[Sample], problems: list[str]) -> dict[str, object]:
    """Results of a comparison with these samples."""
    return {
        "about": {
            "when": "now",
            "revision": "abc",
            "load_average": "0.1",
            "rounds": 1,
            "seconds": 1.0,
        },
        "samples": samples_as_dicts(samples),
        "figures": {
            "cold_start": {"goblin": [0.9, 0.8], "bare flask": [0.3, 0.2]},
            "rss": {"goblin": 60.0},
            "rss_idle": {"goblin": 50.0},
            "threads": {"goblin": 171},
            "scheduling": {"goblin": "SCHED_BATCH on core 0"},
        },
        "problems": problems,
    }


def test_the_measured_environment_has_the_products_requirements_at_pinned_versions() -> None:
    names = {re.split(r"[\[<>=]", line)[0] for line in installation.requirements()}
    pinned = {
        re.sub("[_.]", "-", line.split("==")[0].split("[")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert {"flask", "waitress", "requests", "psycopg"} <= names <= pinned


def test_a_missed_target_stands_out_on_the_page() -> None:
    samples = [
        sample("bare", 100),
        sample("bare http.client", 70),
        sample("goblin", 300, kind=rows.KEY),
        sample("goblin", 220, kind=rows.LIMITED),
        sample("litellm", 3900),
    ]
    results = {
        "compare": comparison_of(samples, ["goblin, health, 32 connections: 3 failures"]),
        "usage_rows": {
            "about": {"when": "now", "revision": "abc", "load_average": "0.1"},
            "figures": {"0 rows": 600.0},
            "checks": checks_as_dicts(
                [Check("CPU per chat, 0 to 5 usage records", "+1 %", "flat", "met", True)]
            ),
        },
        "machine": {"processor": "one"},
    }
    text = page(results)
    assert "times the bare urllib3 function | 3.00x | <= 2.1x (stretch 1.6x) | **MISSED** |" in text
    assert "times the bare http.client function | 4.29x | <= 3x (stretch 2.3x) | **MISSED**" in text
    assert (
        "times the bare urllib3 function | 2.20x | <= 2.6x (stretch 2.2x) | stretch met |" in text
    )
    assert "LiteLLM's CPU per request, times ours | 13.0x | >= 12x (stretch 20x) | met |" in text
    assert "| cold start, times a bare Flask view's | 3.50 (3.00-4.00)x | <= 4x | met |" in text
    assert (
        "| CPU per chat, 0 to 5 usage records | +1 % | flat | met, within the run's noise |" in text
    )
    assert "## Usage records in the database" in text
    assert "- goblin, health, 32 connections: 3 failures" in text
    assert "| goblin | 0.90, 0.80 | 50 | 60 | 171 | SCHED_BATCH on core 0 |" in text
    assert "3 failures" in verdict(results)
    assert [check.outcome for check in all_checks(results)].count("MISSED") == 2


def test_a_table_says_how_many_times_the_baseline_of_its_own_rounds_a_row_needs() -> None:
    samples = [sample("bare", 100, kind="chat, two cores"), sample("bare", 50)]
    samples += [sample("goblin", 150, kind="chat, API key, two cores")]
    ends = [("bare", "chat, two cores"), ("goblin", "chat, API key, two cores")]
    table = samples_table(samples, ends, [32], baseline=ends[0])
    assert "| 32 | bare (two cores) | 100 | 1.00 | 100 |" in table
    assert "| 32 | goblin (API key, two cores) | 150 | 1.50 | 100 |" in table


def test_rows_of_one_concurrency_follow_each_other_so_that_ratios_are_of_neighbours() -> None:
    chosen = rows.chosen(frozenset({"chat", "stream"}), with_litellm=False, with_postgres=True)
    assert {row.server for row in chosen} == {"bare", "bare http.client", "goblin"}
    order = rows.in_order(chosen)
    assert [level for _, level in order] == sorted(level for _, level in order)
    at_32 = [row.kind for row, level in order if level == 32]
    assert at_32.index("stream") > max(at_32.index(kind) for kind in (rows.KEY, rows.CALLERS))


def test_every_row_is_compared_and_each_has_a_name_of_its_own() -> None:
    assert {row.group for row in rows.ROWS} == set(rows.KINDS)
    assert len({(row.server, row.kind) for row in rows.ROWS}) == len(rows.ROWS)
    without = rows.chosen(frozenset(rows.KINDS), with_litellm=True, with_postgres=False)
    assert not any("PostgreSQL" in row.process for row in without)
    assert len(without) == len(rows.ROWS) - 2


EVENTS = ('{"choices":[{"delta":{"content":" one"}}]}', '{"choices":[{"delta":{}}]}', "[DONE]")


def body_of(*events: str) -> bytes:
    """A stream's body with these events."""
    return "".join(f"data: {event}\n\n" for event in events).encode()


def test_a_stream_is_whole_when_its_text_and_its_end_are_the_providers() -> None:
    direct = streams.parse(body_of(*EVENTS))
    assert direct == streams.Stream(events=3, bytes=len(body_of(*EVENTS)), done=True, text=" one")
    assert streams.difference(direct, direct) == ""
    cut = streams.parse(body_of(*EVENTS[:-1]))
    assert "without [DONE] after 2 events" in streams.difference(cut, direct)
    empty = streams.parse(b"")
    assert "without [DONE] after 0 events" in streams.difference(empty, direct)
    other = streams.parse(body_of(EVENTS[1], EVENTS[2]))
    assert "its text has 0 characters, the provider's has 4" in streams.difference(other, direct)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (native.StreamCounts(4, 4, (200, 200), (40_100, 40_900)), ""),
        (native.StreamCounts(0, 0, (0, 0), (0, 0)), "no stream ended"),
        (native.StreamCounts(4, 3, (200, 200), (40_000, 40_000)), "1 of 4 streams ended without"),
        (native.StreamCounts(4, 4, (100, 200), (40_000, 40_000)), "of 100 to 200 events for 200"),
        (native.StreamCounts(4, 4, (200, 200), (9_000, 40_000)), "of 9000 to 40000 bytes for"),
    ],
)
def test_a_measurement_counts_only_if_every_stream_was_whole(
    counts: native.StreamCounts, said: str
) -> None:
    wrong = streams.shortfall(counts, streams.Stream(200, 40_000, True, "text"))
    assert said in wrong
    assert bool(wrong) == bool(said)


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


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        ([(100, 99, 101), (104, 103, 105)], "met"),
        ([(100, 99, 101), (130, 129, 131)], "MISSED"),
        ([(100, 60, 140), (130, 110, 150)], "MISSED, within the run's noise"),
        ([(100, 90, 110), (110, 100, 120)], "met, within the run's noise"),
        ([(100, 99, 101), (130, 129, 131), (100, 99, 101)], "MISSED"),
        ([(200, 199, 201), (100, 99, 101), (150, 149, 151)], "MISSED"),
        ([(200, 199, 201), (150, 149, 151), (100, 99, 101)], "met"),
    ],
)
def test_a_figure_is_flat_by_a_fixed_bound_between_any_two_points(
    spreads: list[tuple[float, float, float]], said: str
) -> None:
    points = {str(number): Spread(*values) for number, values in enumerate(spreads)}
    assert flat("x", points).said == said


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


@contextmanager
def answering(answer: bytes, seen: list[bytes] | None = None) -> Iterator[int]:
    """A server of one connection: the same answer to each request; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(65536):
                if seen is not None:
                    seen.append(request)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join(30)
        listener.close()


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
    assert (load.streams.count, load.streams.done, load.streams.events) == (10, 10, (23, 23))
    assert load.streams.bytes[0] == load.streams.bytes[1] > 23 * 100


def test_loadgen_sees_a_stream_that_ends_without_its_last_event(programs: Path) -> None:
    """As LiteLLM's did: status 200, a whole HTTP answer, half of the events, no [DONE]."""
    cut = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (b"data: 1\n\n", b"data: 2\n\n"))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + cut + b"0\r\n\r\n"
    with answering(answer) as port:
        load = native.finish_load(
            native.start_load(
                programs, port, native.http_request("GET", "/", {}), connections=1, seconds=60,
                core=None, options=("-n", "3"),
            )
        )  # fmt: skip
    assert (load.requests, load.failures, load.clean) == (3, 0, True)
    assert (load.streams.count, load.streams.done, load.streams.events) == (3, 0, (2, 2))
    whole = streams.Stream(events=3, bytes=len(cut), done=True, text="")
    assert "3 of 3 streams ended without [DONE]" in streams.shortfall(load.streams, whole)


def test_loadgen_sends_several_requests_in_turn(programs: Path) -> None:
    seen: list[bytes] = []
    sent = [native.http_request("GET", f"/{number}", {}, host=f"h{number}") for number in range(3)]
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", seen) as port:
        load = native.finish_load(
            native.start_load(
                programs, port, sent, connections=1, seconds=60, core=None, options=("-n", "5")
            )
        )
    assert (load.requests, load.streams.count) == (5, 0)
    assert seen == [*sent, *sent[:2]]


def test_a_stream_of_the_upstream_is_read_whole(programs: Path) -> None:
    request = native.http_request("POST", "/", {}, chat_body("bench", stream=True))
    with native.upstream(programs, chunks=3, interval_us=100, core=None) as port:
        seen = streams.read(port, request)
    assert (seen.events, seen.done, seen.text) == (6, True, " the 0 quick 1 brown 2")


def test_the_upstream_answers_as_a_provider_does(programs: Path) -> None:
    """Chunked, with the headers of OpenAI's API, the same text as the lean answer has."""
    answers = {}
    for shape in SHAPES:
        with native.upstream(programs, chunks=3, interval_us=0, core=None, shape=shape) as port:
            answers[shape] = requests.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                data=chat_body("bench"),
                timeout=60,
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
            timeout=60,
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
    return pairs.Round(setting, cpu, {name: us / 10 for name, us in cpu.items()})


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


def test_instances_are_compared_with_one_within_a_round() -> None:
    rounds = [
        instances.Round(rows.KEY, {1: 100.0 * noise, 2: 110.0 * noise, 3: 130.0 * noise})
        for noise in (1, 5, 2, 9)  # of the machine, the same within a round
    ]
    one, two, three = instances.summary(rounds)
    assert (one.ratio, two.ratio, three.ratio) == (1.0, 1.1, 1.3)
    assert (two.low, two.high, two.pairs) == (1.1, 1.1, 4)
    assert instances.verdict(two) == "met"
    assert instances.verdict(three) == "MISSED"


def test_the_page_on_and_off_are_compared_within_a_round() -> None:
    def rounds(ratio: float) -> list[page_switch.Round]:
        noise = (100.0, 500.0, 200.0, 900.0)  # of the machine, the same within a round
        return [page_switch.Round({"on": us * ratio, "off": us}) for us in noise]

    same = page_switch.text_of(rounds(1.0))
    assert "1.000 times (1.000 to 1.000), 4 pairs. No difference" in same
    assert "1.020 times (1.020 to 1.020), 4 pairs. They DIFFER" in page_switch.text_of(rounds(1.02))


def test_a_target_within_the_interval_says_so() -> None:
    row = instances.Row(rows.LIMITED, 2, 500.0, 1.1, 1.0, 1.2, 20)
    assert instances.verdict(row) == "met, within the run's noise"
    text = instances.section([row], {"cores": "2", "processor": "x", "Python": "3"})
    assert "| budget and limits | 2 | 500 | 1.100 | 1.000 to 1.200 | 20 |" in text


def test_traces_are_compared_with_their_reference_within_a_round() -> None:
    rounds = [
        {traces.PLAIN: 100.0 * noise, traces.BROUGHT: 101.0 * noise, traces.SENT: 107.0 * noise}
        for noise in (1, 5, 2, 9)
    ]
    plain, brought, sent = found = traces.summary(rounds)
    assert (plain.ratio, brought.ratio, sent.ratio) == (1.0, 1.01, 1.07)
    assert (traces.verdict(brought), traces.verdict(sent)) == ("met", "MISSED")
    text = traces.section(found, {"cores": "2", "processor": "x", "Python": "3"})
    assert f"| {traces.SENT} | {107 * 3.5:.0f} | {traces.PLAIN} | 1.070 |" in text
