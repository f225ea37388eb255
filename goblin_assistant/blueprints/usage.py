"""Usage and cost."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import Response, request

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import Forbidden
from goblin_assistant.money import from_microusd
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.base import rfc3339
from goblin_assistant.schemas.usage import UsageOut, UsageQuery
from goblin_assistant.usage import csv_reports, reports
from goblin_assistant.usage.months import next_month
from goblin_assistant.usage.transactions import DatabaseUnavailable
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("usage", __name__, tag="Usage")

FLUSH_SECONDS = 0.25
"""How long a report waits for the records of chats that have just ended."""


@bp.get("/usage")
@require_auth()
@bp.input(UsageQuery, location="query", arg_name="query")
@describe("Usage and cost", answer=UsageOut, text=("text/csv",))
def get_usage(query: UsageQuery) -> Response | dict[str, Any]:
    """A user sees their own usage, an API key only its own. An admin sees anybody's with user_id,
    and everybody's with scope=all.

    With CSV the next page is in the header Link.
    """
    principal = current_principal()
    runtime().usage.flush(FLUSH_SECONDS)  # a caller sees the chat that has just ended
    groups = reports.parse_groups(query.group_by)
    scope = _scope(principal, query, groups)
    start, end = reports.parse_range(query.from_, query.to)
    page = reports.report(runtime().engine, scope, start, end, groups, query.limit, query.cursor)
    if query.format == "csv" or (query.format is None and _prefers_csv()):
        response = Response(csv_reports.as_csv(page), content_type="text/csv; charset=utf-8")
        response.headers["Content-Disposition"] = 'attachment; filename="usage.csv"'
        if page.next_cursor is not None:
            values = {**request.args.to_dict(), "cursor": page.next_cursor}
            response.headers["Link"] = f'<{request.path}?{urlencode(values)}>; rel="next"'
        return response
    return {
        "from": rfc3339(start, "milliseconds"),
        "to": rfc3339(end, "milliseconds"),
        "group_by": list(groups),
        "rows": page.rows,
        "totals": page.totals,
        "next_cursor": page.next_cursor,
        "budget": _budget(principal),
    }


def _scope(principal: Principal, query: UsageQuery, groups: tuple[str, ...]) -> reports.Scope:
    others = (
        query.scope == "all" or query.user_id not in (None, principal.user_id) or "user" in groups
    )
    if others and not principal.is_admin:
        raise Forbidden("only an admin may see the usage of others")
    if principal.key_id is not None and not others:
        if query.key_id not in (None, principal.key_id):
            raise Forbidden(
                "an API key sees only its own usage; log in to see that of all your keys"
            )
        return reports.Scope(principal.user_id, principal.key_id)
    if query.scope == "all" and query.user_id is None:
        return reports.Scope(None, query.key_id)
    return reports.Scope(query.user_id or principal.user_id, query.key_id)


def _prefers_csv() -> bool:
    return (
        request.accept_mimetypes.best_match(["application/json", "text/csv"], "application/json")
        == "text/csv"
    )


def _budget(principal: Principal) -> dict[str, Any] | None:
    budget = principal.monthly_budget_microusd
    if budget is None or principal.key_id is None:
        return None
    try:
        state = runtime().usage.budgets.state(principal.key_id, now_ms())
    except DatabaseUnavailable:
        return None
    return {
        "period": state.period,
        "budget_usd": from_microusd(budget),
        "spent_usd": from_microusd(state.spent_microusd),
        "reserved_usd": from_microusd(state.reserved_microusd),
        "resets_at": next_month(state.period),
    }
