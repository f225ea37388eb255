"""The files of ops/kubernetes: built by kustomize, validated strictly, and consistent.

They were not run in a cluster. The query that the autoscaler follows is asked of a real Prometheus
while the load on a real server rises and falls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from goblin_assistant.config import Config
from goblin_assistant.version import __version__
from ops.kubernetes import write_rules
from tests.conftest import Serve, wait_until
from tests.support.alert_rules import OPS, promtool
from tests.support.monitoring import running_prometheus
from tests.support.services import find_binary

KUBERNETES = OPS / "kubernetes"
OVERLAYS = ("production", "staging")
OPERATOR = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of prometheus-operator, whose schemas are in no package."""
SETTINGS = {Config.env_name(name) for name in Config.model_fields if name != "file"}
BIN = str(Path(sys.executable).parent)


def built(overlay: str) -> str:
    return subprocess.run(
        [find_binary("kubectl", BIN), "kustomize", str(KUBERNETES / "overlays" / overlay)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every object of an overlay."""
    return [found for found in yaml.safe_load_all(built(request.param)) if found]


def named(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [
        row
        for row in objects
        if row["kind"] == kind and row["metadata"]["name"] == "goblin-assistant" + name
    ]
    return found


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, specification) of every pod."""
    for row in objects:
        spec = row.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield row["kind"], spec["template"]["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid_by_the_schemas_of_kubernetes(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    core = [row for row in yaml.safe_load_all(built(overlay)) if row["kind"] not in OPERATOR]
    assert len(core) >= 12
    command = [find_binary("kubernetes-validate", BIN), "--strict", "-k", "1.33", str(file)]
    file.write_text(yaml.safe_dump_all(core))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr
    core[0]["mistake"] = True
    file.write_text(yaml.safe_dump_all(core))
    assert subprocess.run(command, capture_output=True, check=False, timeout=120).returncode != 0


def test_the_rules_are_those_of_prometheus(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    written = write_rules.TARGET.read_text()
    assert written == write_rules.rules(), "run: python -m ops.kubernetes.write_rules"
    groups = named(objects, "PrometheusRule")["spec"]
    assert groups == yaml.safe_load(written)["spec"]
    (tmp_path / "rules.yml").write_text(json.dumps(groups))
    assert "SUCCESS" in promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_pods_have_no_rights_and_bounded_resources(objects: list[dict[str, Any]]) -> None:
    pods = list(pod_specs(objects))
    assert [kind for kind, _ in pods].count("Deployment") == 1
    for kind, pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True, kind
        assert pod["securityContext"]["runAsUser"] == 10001  # as in ops/docker/Dockerfile
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["image"].startswith("registry.yourdomain.com/")
            assert not container["image"].endswith(":latest")


def test_secrets_are_named_and_never_written_down(objects: list[dict[str, Any]]) -> None:
    assert not [row for row in objects if row["kind"] == "Secret"]
    for _, pod in pod_specs(objects):
        for container in pod["containers"]:
            for variable in container.get("env", []):
                assert variable["name"].removesuffix("_FILE") in SETTINGS, variable
                if variable["name"].endswith("_FILE"):
                    assert variable["value"].startswith("/run/secrets/goblin/")
    assert set(named(objects, "ConfigMap")["data"]) - SETTINGS == set()


def test_the_images_are_of_this_version(objects: list[dict[str, Any]]) -> None:
    tags = {
        container["image"].rpartition(":")[2]
        for _, pod in pod_specs(objects)
        for container in pod["containers"]
    }
    assert tags == {__version__}


def test_a_pod_has_time_to_drain(objects: list[dict[str, Any]]) -> None:
    data = named(objects, "ConfigMap")["data"]
    config = Config.load(environ={**data, "SECRET_KEY": "s" * 32}, dotenv=Path("/nonexistent"))
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    _, pause = server["lifecycle"]["preStop"]["exec"]["command"]
    drain = int(pause) + config.drain_delay_seconds + config.grace_seconds + 10
    assert pod["terminationGracePeriodSeconds"] >= drain
    scaler = named(objects, "HorizontalPodAutoscaler")["spec"]
    assert config.instances == scaler["minReplicas"]
    (metric,) = scaler["metrics"]
    assert int(metric["pods"]["target"]["averageValue"]) * 2 == config.slots


def test_ports_selectors_and_probes_agree(objects: list[dict[str, Any]]) -> None:
    deployment = named(objects, "Deployment")["spec"]
    (server,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports["http"] == Config.model_fields["port"].default
    data = named(objects, "ConfigMap")["data"]
    assert str(ports["metrics"]) == data["GOBLIN_METRICS_PORT"]
    labels = deployment["template"]["metadata"]["labels"].items()
    for name in ("", "-metrics"):
        service = named(objects, "Service", name)["spec"]
        assert service["selector"].items() <= labels
        assert {port["targetPort"] for port in service["ports"]} <= set(ports)
    budget = named(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels
    monitor = named(objects, "ServiceMonitor")
    metrics = named(objects, "Service", "-metrics")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= metrics["metadata"]["labels"].items()
    # The alerts and dashboards look for this job.
    assert metrics["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "goblin-assistant"
    assert not wanted <= named(objects, "Service")["metadata"].get("labels", {}).items()
    probes = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    assert {probe["path"] for probe in probes.values()} == {"/health/live"}
    assert server["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    policy = named(objects, "NetworkPolicy")["spec"]
    opened = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert opened == [ports["http"], ports["metrics"]]
    assert all("from" in rule for rule in policy["ingress"])


def test_every_mounted_volume_is_declared(objects: list[dict[str, Any]]) -> None:
    for _, pod in pod_specs(objects):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_autoscalers_query_rises_and_falls_with_the_chats_in_flight(
    serve: Serve, tmp_path: Path
) -> None:
    hpa = yaml.safe_load((KUBERNETES / "base" / "hpa.yaml").read_text())
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    # As prometheus-adapter fills it in for one pod.
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="goblin",pod="goblin-1"')
    file = tmp_path / "goblin.toml"
    file.write_text('[providers.sim]\nkind = "echo"\noptions = { tokens_per_second = 1 }\n')
    server = serve(GOBLIN_CONFIG_FILE=str(file))
    headers = server.register()
    chat = {
        "model": "sim/echo",
        "stream": True,
        "messages": [{"role": "user", "content": "word " * 250}],
    }
    scrape = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "goblin-assistant",
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{server.port}"],
                        "labels": {"namespace": "goblin", "pod": "goblin-1"},
                    }
                ],
            }
        ],
    }
    answers: list[requests.Response] = []
    with running_prometheus(scrape, tmp_path / "prometheus") as prometheus:

        def in_flight() -> float:
            rows = prometheus.query(query)
            return float(rows[0]["value"][1]) if rows else -1

        wait_until(lambda: in_flight() == 0, 60, "a scrape")
        assert prometheus.query(rule["seriesQuery"])[0]["metric"]["pod"] == "goblin-1"
        try:
            for chats in (2, 5):
                while len(answers) < chats:
                    answer = requests.post(
                        f"{server.url}/chat/completions",
                        json=chat,
                        headers=headers,
                        stream=True,
                        timeout=120,
                    )
                    answers.append(answer)
                    assert answer.status_code == 200
                wait_until(lambda wanted=chats: in_flight() == wanted, 60, f"{chats} in flight")
        finally:
            for answer in answers:
                answer.close()
        wait_until(lambda: in_flight() == 0, 60, "the load to fall")
