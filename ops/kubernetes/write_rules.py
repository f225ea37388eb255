"""Write base/prometheusrule.yaml from ops/prometheus/rules: python -m ops.kubernetes.write_rules

prometheus-operator reads rules as objects of Kubernetes. tests/ops/test_kubernetes.py compares.
"""

from __future__ import annotations

from pathlib import Path

import yaml

OPS = Path(__file__).resolve().parent.parent
TARGET = OPS / "kubernetes" / "base" / "prometheusrule.yaml"
HEADER = "# Written from ops/prometheus/rules by `python -m ops.kubernetes.write_rules`.\n"


def rules() -> str:
    """The file's text."""
    files = sorted((OPS / "prometheus" / "rules").glob("*.rules.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "goblin-assistant"},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True)


if __name__ == "__main__":
    TARGET.write_text(rules())
