"""The files of ops/logging for programs that cannot be run here: their syntax, their fields, and
that each has a retention and an alert on errors."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator

from tests.conftest import ROOT, Serve
from tests.shippers.test_rsyslog import CONFIG as RSYSLOG
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.real_server import CHAT, start
from tests.support.services import find_binary

FOLDER = ROOT / "ops" / "logging"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())

LOGSTASH = (FOLDER / "elk" / "logstash.conf").read_text()
ONLY_IN_FAILURES = {"exc_info"}
"""Of logs/json_logging.py, in lines of unexpected failures."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_file_can_be_parsed(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".json":
        assert isinstance(json.loads(text), dict)
    elif path.suffix == ".ndjson":
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    elif path.suffix in (".yml", ".yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    else:
        assert path.suffix in (".conf", ".md", ".py", ".sh", ".service", ".timer"), "new kind"


def test_the_readme_names_every_file() -> None:
    page = (FOLDER / "README.md").read_text()
    missing = [
        str(path.relative_to(FOLDER))
        for path in FILES
        if path.name not in page and path.suffix != ".md"
    ]
    assert missing == []


# -- fields ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rsyslog_fields() -> set[str]:
    return set(re.findall(r"\$!(\w+)", RSYSLOG.read_text()))


def test_every_field_that_a_configuration_reads_is_in_the_log(
    serve: Serve, fake_upstream: FakeUpstream, rsyslog_fields: set[str]
) -> None:
    server = start(serve, fake_upstream, LOG_LEVEL="DEBUG")
    fake_upstream.reply(Reply.json(500, {"error": {"message": "broken"}}))
    headers = server.register()
    for model in ("openai/gpt-4o", "echo"):
        answer = requests.post(
            server.url + "/chat/completions",
            json={**CHAT, "model": model}, headers=headers, timeout=30,
        )  # fmt: skip
        server.wait_for_line("request_completed", correlation_id=answer.headers["X-Correlation-ID"])
    server.wait_for_line("chat_completed")
    written = {key for line in server.log_lines() for key in line} | ONLY_IN_FAILURES
    read = {
        "rsyslog": rsyslog_fields,
        "logstash": set(re.findall(r"\[goblin\]\[(\w+)\]", LOGSTASH)),
        "datadog": datadog_fields(),
        "cloudwatch": cloudwatch_fields(),
    }
    for shipper, fields in read.items():
        assert fields - written == set(), shipper
        assert {"timestamp", "level", "message", "correlation_id", "instance"} <= fields, shipper


def datadog_fields() -> set[str]:
    processors = json.loads((FOLDER / "datadog" / "pipeline.json").read_text())["processors"]
    fields = {source for one in processors for source in one.get("sources", ())}
    (arithmetic,) = [one for one in processors if one["type"] == "arithmetic-processor"]
    monitor = (FOLDER / "datadog" / "monitor.json").read_text()
    used = re.findall(r"log\.attributes\.(\w+)", monitor)
    return fields | {arithmetic["expression"].split()[0]} | set(used)


def cloudwatch_fields() -> set[str]:
    wanted = json.loads((FOLDER / "cloudwatch" / "goblin_assistant.json").read_text())
    patterns = json.dumps(wanted["metric_filters"])
    fields = set(re.findall(r"\$\.(\w+)", patterns))
    for query in wanted["queries"]:
        text = re.sub(r'"[^"]*"', "", query["queryString"])
        names = set(re.findall(r"\bas (\w+)", text))
        words = set(re.findall(r"(?<![@\w])[a-z]\w*", text))
        fields |= words - names - INSIGHTS_WORDS
    return fields


INSIGHTS_WORDS = {
    "fields", "filter", "in", "sort", "desc", "asc", "limit", "stats", "by", "as", "count", "pct",
    "max", "sum",
}  # fmt: skip
"""https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/CWL_QuerySyntax.html"""


def test_logstash_and_rsyslog_give_a_field_the_same_ecs_name() -> None:
    logstash = {
        source: target.replace("][", ".").strip("[]")
        for source, target in re.findall(r'"\[goblin\]\[(\w+)\]" => "(\S+)"', LOGSTASH)
    }
    rsyslog = {
        source: target
        for target, source in re.findall(r'outname="(\S+)" name="\$!(\w+)"', RSYSLOG.read_text())
    }
    shared = logstash.keys() & rsyslog.keys()
    assert len(shared) >= 9
    for field in shared:
        assert logstash[field] == rsyslog[field]


def test_the_index_template_has_a_type_for_every_field_that_logstash_names() -> None:
    template = json.loads((FOLDER / "elk" / "index-template.json").read_text())
    typed = set(leaves(template["template"]["mappings"]["properties"]))
    targets = re.findall(r'=> "(\[[\w\]\[]+\])"', LOGSTASH)
    named = {target.replace("][", ".").strip("[]") for target in targets}
    assert named | {"event.duration", "service.name"} <= typed


def leaves(properties: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, field in properties.items():
        inner = field.get("properties")
        names += leaves(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return names


# -- syntax ---------------------------------------------------------------------------------------


def test_the_logstash_pipeline_has_three_sections_of_plugins() -> None:
    """By Logstash's grammar, as far as the file uses it:
    https://www.elastic.co/guide/en/logstash/8.17/configuration-file-structure.html"""
    text = re.sub(r"(?m)^\s*#.*$", "", LOGSTASH)
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|=>|[{}\[\],]|[^\s{}\[\],"]+', text)
    assert "".join(tokens) == re.sub(r"\s+(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", "", text)
    depth, sections = 0, []
    for number, token in enumerate(tokens):
        if token == "{":
            if depth == 0:
                sections.append(tokens[number - 1])
            depth += 1
        elif token == "}":
            depth -= 1
            assert depth >= 0
    assert depth == 0
    assert sections == ["input", "filter", "output"]


PROCESSOR = {
    "type": "object",
    "required": ["type", "name", "is_enabled"],
    "oneOf": [
        {
            "properties": {
                "type": {"enum": ["date-remapper", "status-remapper", "message-remapper"]},
                "sources": {"type": "array", "minItems": 1},
            },
            "required": ["sources"],
        },
        {
            "properties": {
                "type": {"const": "attribute-remapper"},
                "source_type": {"enum": ["attribute", "tag"]},
                "target_type": {"enum": ["attribute", "tag"]},
                "target_format": {"enum": ["auto", "string", "integer", "double"]},
            },
            "required": ["sources", "target", "source_type", "target_type"],
        },
        {
            "properties": {"type": {"const": "arithmetic-processor"}},
            "required": ["expression", "target"],
        },
        {
            "properties": {
                "type": {"const": "category-processor"},
                "categories": {"items": {"required": ["filter", "name"]}},
            },
            "required": ["categories", "target"],
        },
    ],
}
"""https://docs.datadoghq.com/api/latest/logs-pipelines/#create-a-pipeline"""


def test_the_datadog_pipeline_has_the_shape_of_the_api() -> None:
    pipeline = json.loads((FOLDER / "datadog" / "pipeline.json").read_text())
    schema = {
        "type": "object",
        "required": ["name", "filter", "processors"],
        "properties": {"processors": {"type": "array", "items": PROCESSOR}},
    }
    Draft202012Validator(schema).validate(pipeline)


LOG_OPTIONS = {
    "json-file": {"max-size", "max-file", "compress", "mode", "max-buffer-size"},
    "awslogs": {"awslogs-region", "awslogs-group", "tag", "mode", "max-buffer-size"},
}
"""Options of Docker's drivers that the files use, by the pages at
https://docs.docker.com/engine/logging/drivers/"""


@pytest.mark.parametrize(
    "path", ["docker/compose.json-file.yaml", "cloudwatch/compose.awslogs.yaml"]
)
def test_a_compose_file_sets_the_options_of_its_driver(path: str) -> None:
    services = yaml.safe_load((FOLDER / path).read_text())["services"]
    logging = services["goblin-assistant"]["logging"]
    assert logging["options"].keys() == LOG_OPTIONS[logging["driver"]]
    assert all(isinstance(value, str) for value in logging["options"].values())


def test_the_docker_daemons_options_are_texts_of_its_driver() -> None:
    daemon = json.loads((FOLDER / "docker" / "daemon.json").read_text())
    assert daemon["log-opts"].keys() <= LOG_OPTIONS[daemon["log-driver"]]
    assert all(isinstance(value, str) for value in daemon["log-opts"].values())


def test_the_units_for_journald_are_valid(tmp_path: Path) -> None:
    analyze = find_binary("systemd-analyze")
    for path in (FOLDER / "journald").glob("goblin-assistant-errors.*"):
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        [analyze, "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    parser = configparser.ConfigParser()
    parser.read(FOLDER / "journald" / "goblin-assistant.conf")
    # https://www.freedesktop.org/software/systemd/man/252/journald.conf.html
    assert set(parser["Journal"]) == {
        "storage", "systemmaxuse", "maxretentionsec", "linemax", "ratelimitintervalsec",
    }  # fmt: skip


# -- retention and alerts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "retention"),
    [
        ("logrotate.conf", "rotate 14"),
        ("elk/ilm-policy.json", '"delete": {"min_age": "30d"'),
        ("elk/index-template.json", '"index.lifecycle.name": "goblin-assistant"'),
        ("datadog/index.json", '"num_retention_days": 30'),
        ("cloudwatch/goblin_assistant.json", '"retentionInDays": 30'),
        ("cloudwatch/agent.json", '"retention_in_days": 30'),
        ("journald/goblin-assistant.conf", "MaxRetentionSec=30day"),
        ("docker/daemon.json", '"max-file": "10"'),
    ],
)
def test_the_log_is_not_kept_for_ever(path: str, retention: str) -> None:
    assert retention in (FOLDER / path).read_text()


@pytest.mark.parametrize(
    "path",
    [
        "rsyslog/goblin-assistant.conf", "elk/kibana-alert-on-error.json", "datadog/monitor.json",
        "cloudwatch/goblin_assistant.json", "error-mail.sh",
    ],
)  # fmt: skip
def test_both_levels_of_failure_alert(path: str) -> None:
    text = (FOLDER / path).read_text().upper()
    assert "ERROR" in text
    assert "CRITICAL" in text


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    """A file that a program `mail` in PATH writes its arguments and input to."""
    program = tmp_path / "bin" / "mail"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n{{ printf "%s\\n" "$@"; cat; }} >> {tmp_path}/mailbox\n')
    program.chmod(0o755)
    return tmp_path / "mailbox"


def send(lines: list[str], mailbox: Path) -> None:
    find_binary("jq")
    subprocess.run(
        [str(FOLDER / "error-mail.sh"), "on-call@example.com"],
        input="".join(line + "\n" for line in lines), text=True, check=True, timeout=30,
        env={"PATH": f"{mailbox.parent / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip


def test_errors_are_mailed_together(mailbox: Path) -> None:
    quiet = ['{"level":"INFO","message":"a"}', "no JSON", "[1]", '{"message":"ERROR"}']
    loud = ['{"level":"ERROR","message":"b"}', '{"level":"CRITICAL","message":"c"}']
    send([quiet[0], loud[0], *quiet[1:], loud[1]], mailbox)
    assert mailbox.read_text().splitlines() == [
        "-s", "goblin-assistant: 2 errors", "on-call@example.com", *loud,
    ]  # fmt: skip


def test_without_errors_there_is_no_mail(mailbox: Path) -> None:
    send(['{"level":"WARNING","message":"a"}'], mailbox)
    assert not mailbox.exists()
