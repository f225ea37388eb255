"""ops/logging/cloudwatch against moto's server, which has CloudWatch's API but runs no queries."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.validate import ParamValidator
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT

FOLDER = ROOT / "ops" / "logging" / "cloudwatch"
WANTED: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "goblin_assistant.json").read_text())
TOPIC = "arn:aws:sns:eu-central-1:123456789012:on-call"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty CloudWatch, set in the environment as for any AWS client."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"http://{host}:{port}"
    server.stop()


def apply(*arguments: str) -> str:
    """Run ops/logging/cloudwatch/apply.py as an operator does."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "apply.py"), *arguments],
        capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


MOTO_HAS = ("--only", "log_groups", "metric_filters", "alarms")


def test_groups_retention_filters_and_alarms_are_created_and_a_second_run_changes_nothing(
    endpoint: str,
) -> None:
    for _ in range(2):
        printed = apply("--alarm-action", TOPIC, *MOTO_HAS)
        assert printed == "log_groups: 1\nmetric_filters: 3\nalarms: 2\n"
    with_logs, with_metrics = boto3.client("logs"), boto3.client("cloudwatch")
    (group,) = with_logs.describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/goblin-assistant", 30)
    filters = with_logs.describe_metric_filters()["metricFilters"]
    patterns = {one["filterName"]: one["filterPattern"] for one in filters}
    assert patterns == {one["filterName"]: one["filterPattern"] for one in WANTED["metric_filters"]}
    alarms = with_metrics.describe_alarms()["MetricAlarms"]
    assert {alarm["AlarmName"] for alarm in alarms} == {
        "goblin-assistant-log-errors",
        "goblin-assistant-server-errors",
    }
    assert {tuple(alarm["AlarmActions"]) for alarm in alarms} == {(TOPIC,)}


def test_an_alarm_looks_at_a_metric_that_a_filter_makes() -> None:
    made = {
        (one["metricNamespace"], one["metricName"])
        for item in WANTED["metric_filters"]
        for one in item["metricTransformations"]
    }
    for alarm in WANTED["alarms"]:
        assert (alarm["Namespace"], alarm["MetricName"]) in made
    assert any(alarm["MetricName"] == "LogErrors" for alarm in WANTED["alarms"])


@pytest.mark.parametrize(
    ("service", "operation", "part"),
    [
        ("logs", "PutMetricFilter", "metric_filters"),
        ("logs", "PutRetentionPolicy", "log_groups"),
        ("logs", "PutQueryDefinition", "queries"),
        ("cloudwatch", "PutMetricAlarm", "alarms"),
    ],
)
def test_each_request_has_the_shape_of_the_api(service: str, operation: str, part: str) -> None:
    client = boto3.client(
        service, region_name="eu-central-1", config=Config(parameter_validation=True)
    )
    shape = client.meta.service_model.operation_model(operation).input_shape
    for item in WANTED[part]:
        report = ParamValidator().validate(item, shape)
        assert not report.has_errors(), report.generate_report()


def test_a_query_that_exists_is_replaced_and_a_new_one_added() -> None:
    """With a client in memory: moto has no query definitions."""
    put = runpy.run_path(str(FOLDER / "apply.py"))["_query"]
    client = Definitions()
    for item in [*WANTED["queries"], *WANTED["queries"]]:
        put(client, item)
    assert [one["name"] for one in client.stored.values()] == [
        one["name"] for one in WANTED["queries"]
    ]


class Definitions:
    """CloudWatch's query definitions."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}

    def describe_query_definitions(self, queryDefinitionNamePrefix: str) -> dict[str, Any]:
        return {
            "queryDefinitions": [
                {**one, "queryDefinitionId": key}
                for key, one in self.stored.items()
                if one["name"].startswith(queryDefinitionNamePrefix)
            ]
        }

    def put_query_definition(self, queryDefinitionId: str | None = None, **item: Any) -> None:
        self.stored[queryDefinitionId or f"id-{len(self.stored)}"] = item
