"""The checklist: the ten items of the production guide in its words, then other subjects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from goblin_assistant.commands.doctor import (
    caller,
    load_test,
    logs,
    machine,
    monitoring,
    outside,
    pooler,
    secrecy,
    services,
    settings,
    storage,
)
from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Check, Finding, run


@dataclass(frozen=True, slots=True)
class Section:
    """An item of the guide (`number` 1 to 10), or a subject beyond it (None).

    `from_outside` holds checks that need --url.
    """

    number: int | None
    title: str
    checks: tuple[Check, ...]
    from_outside: tuple[Check, ...] = ()


SECTIONS = (
    Section(1, "Set `CORS_ORIGINS` to production domains", (settings.browsers,)),
    Section(2, "Set `LOG_LEVEL=INFO` (or WARNING for production)", (settings.log_level,)),
    Section(3, "Configure Prometheus scraping", (monitoring.scraping,), (outside.metrics,)),
    Section(4, "Set up Grafana dashboards", (monitoring.dashboards,)),
    Section(5, "Configure alerting rules", (monitoring.rules, monitoring.alertmanager)),
    Section(6, "Set up log aggregation", (logs.aggregation,)),
    Section(7, "Run load tests on staging", (load_test.load_test,)),
    Section(8, "Set up automated health checks", (monitoring.health_checks,), (outside.answers,)),
    Section(9, "Configure rate limit thresholds for your scale", (settings.limits,)),
    Section(10, "Monitor metrics for first 24 hours", (monitoring.first_day,)),
    Section(
        None,
        "Storage",
        (storage.database, pooler.sessions, storage.redis_server, storage.instances),
    ),
    Section(None, "Providers and services", (services.providers, services.dependencies)),
    Section(
        None,
        "Secrets and access",
        (
            settings.environment,
            secrecy.signing_key,
            secrecy.other_secrets,
            secrecy.files,
            settings.registration,
            settings.proxy,
            settings.metrics_access,
        ),
    ),
    Section(
        None,
        "From outside",
        (),
        (
            outside.certificate,
            outside.redirect,
            outside.hsts,
            outside.body_limits,
            caller.client_address,
            caller.streaming,
        ),
    ),
    # The clock is last: the checks before it collect the clocks of other machines.
    Section(
        None,
        "Machine",
        (machine.folder, machine.disk, machine.open_files, machine.processes, machine.clock),
    ),
)


def findings(context: Context) -> Iterator[tuple[Section, Finding]]:
    """Run every check, in order."""
    for section in SECTIONS:
        checks = section.checks
        if context.url is not None:
            checks += section.from_outside
        for check in checks:
            for finding in run(check, context):
                yield section, finding
