"""Every dashboard, in the order of the list in Grafana."""

from __future__ import annotations

from ops.grafana.source import accounts, on_call, overview, providers, slo, usage

BOARDS = (
    overview.BOARD, providers.BOARD, accounts.BOARD, usage.BOARD, slo.BOARD, on_call.BOARD,
)  # fmt: skip
