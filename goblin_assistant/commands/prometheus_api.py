"""Questions to Prometheus, for `doctor` and `report`.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from typing import Any

import requests

from goblin_assistant.commands.plain_session import plain_session

JOB = "goblin-assistant"
"""The job's name in ops/prometheus/prometheus.yml; the rules and dashboards use it too."""

_SECONDS = 5.0


class PrometheusError(Exception):
    """Prometheus gave no answer that can be used. `str(error)` says why."""


class Prometheus:
    """One Prometheus by its address."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = plain_session()

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer under /api/v1. Raises PrometheusError."""
        try:
            answer = self._session.get(
                f"{self._url}/api/v1/{path}", params=parameters, timeout=_SECONDS
            )
            body = answer.json()
        except requests.exceptions.JSONDecodeError:
            raise PrometheusError(f"answered {answer.status_code} and no JSON") from None
        except requests.Timeout:
            raise PrometheusError(f"no answer within {_SECONDS:g} s") from None
        except requests.RequestException:
            raise PrometheusError("connection failed") from None
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error") if isinstance(body, dict) else None
            raise PrometheusError(f"answered {answer.status_code}: {said or 'no result'}")
        return body["data"]

    def vector(
        self, expression: str, at: float | None = None
    ) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series of an instant query, now or `at` a time."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        found = self.get("query", query=expression, **when)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def number(self, expression: str, at: float | None = None) -> float | None:
        """The value of an expression that gives one series, now or `at` a time; None without
        data."""
        found = self.vector(expression, at)
        return found[0][1] if found else None
