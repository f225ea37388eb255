"""The Flask extensions. They are made here and bound in `create_app`.

flask-limiter and flask-cors keep their state and settings on their objects, so one is made for each
application: in web/rate_limits.py and web/security_headers.py.
"""

from __future__ import annotations

from prometheus_flask_exporter import PrometheusMetrics

from goblin_assistant.metrics import REGISTRY

exporter = PrometheusMetrics.for_app_factory(path=None, export_defaults=False, registry=REGISTRY)
