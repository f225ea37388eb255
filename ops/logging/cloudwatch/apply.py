"""Creates the log groups, metric filters, alarms and Insights queries of goblin_assistant.json.

    pip install boto3
    python ops/logging/cloudwatch/apply.py --alarm-action arn:aws:sns:eu-central-1:...:on-call

Credentials and region are those of the AWS command line. It may be run again: what exists is
replaced. Each object in the file is a request of the API:
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_Operations.html
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import boto3

PARTS = ("log_groups", "metric_filters", "alarms", "queries")


def main(arguments: list[str] | None = None) -> None:
    """Apply the parts that are asked for."""
    parser = argparse.ArgumentParser(description="Set up CloudWatch for Goblin Assistant.")
    parser.add_argument("--alarm-action", help="ARN that alarms notify, such as an SNS topic")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args(arguments)
    wanted: dict[str, list[dict[str, Any]]] = json.loads(
        Path(__file__).with_name("goblin_assistant.json").read_text()
    )
    logs, cloudwatch = boto3.client("logs"), boto3.client("cloudwatch")
    actions = [given.alarm_action] if given.alarm_action else []
    for part in given.only:
        for item in wanted[part]:
            if part == "log_groups":
                _log_group(logs, item)
            elif part == "metric_filters":
                logs.put_metric_filter(**item)
            elif part == "alarms":
                cloudwatch.put_metric_alarm(**item, AlarmActions=actions, OKActions=actions)
            else:
                _query(logs, item)
        print(f"{part}: {len(wanted[part])}")


def _log_group(logs: Any, item: dict[str, Any]) -> None:
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=item["logGroupName"])
    logs.put_retention_policy(**item)


def _query(logs: Any, item: dict[str, Any]) -> None:
    # Without the id of the one that exists, AWS would add a second one.
    found = logs.describe_query_definitions(queryDefinitionNamePrefix=item["name"])
    known = [one for one in found["queryDefinitions"] if one["name"] == item["name"]]
    same = {"queryDefinitionId": known[0]["queryDefinitionId"]} if known else {}
    logs.put_query_definition(**item, **same)


if __name__ == "__main__":
    main()
