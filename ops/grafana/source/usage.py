"""Usage and money."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, rate, total


def _sum(metric: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (increase({metric}{{$filter}}[$__range]))"


BOARD = Board(
    "goblin-usage",
    "usage and money",
    "Chats, tokens and cost by provider and model. The usage records in the database are exact; "
    "these are for the trend.",
    [
        (
            "Within the time shown",
            [
                Panel(
                    "Cost",
                    "US dollars of all chats whose price is known.",
                    "currencyUSD",
                    [(_sum("chat_cost_usd_total"), "cost")],
                    kind="number",
                    width=6,
                    height=4,
                ),
                Panel(
                    "Chats",
                    "Chats that succeeded.",
                    "short",
                    [(_sum("chat_completions_total"), "chats")],
                    kind="number",
                    width=6,
                    height=4,
                ),
                Panel(
                    "Tokens",
                    "Prompt and completion together.",
                    "short",
                    [(_sum("chat_completion_tokens_total"), "tokens")],
                    kind="number",
                    width=6,
                    height=4,
                ),
                Panel(
                    "Chats without a price",
                    "Their cost is not in any sum: add the model's price to goblin.toml.",
                    "short",
                    [(_sum("chat_price_unknown_total"), "chats")],
                    kind="number",
                    width=6,
                    height=4,
                    red_from=1,
                ),
            ],
        ),
        (
            "Over time",
            [
                Panel(
                    "Cost an hour by model",
                    "US dollars an hour at the present rate.",
                    "currencyUSD",
                    [
                        (
                            f"3600 * {rate('chat_cost_usd_total', by='provider, model')}",
                            "{{provider}} {{model}}",
                        )
                    ],
                ),
                Panel(
                    "Tokens a second",
                    "By kind.",
                    "short",
                    [(rate("chat_completion_tokens_total", by="token_type"), "{{token_type}}")],
                ),
                Panel(
                    "Chats by model",
                    "Chats a second that succeeded.",
                    "reqps",
                    [
                        (
                            rate("chat_completions_total", by="provider, model"),
                            "{{provider}} {{model}}",
                        )
                    ],
                ),
            ],
        ),
        (
            "Whether it is booked",
            [
                Panel(
                    "Usage records that the database refused",
                    "A second. They stay in the journal and are written later; see the runbook "
                    "UsageRecordsUnsaved.",
                    "reqps",
                    [(rate("usage_records_unsaved_total"), "records")],
                    red_from=0.001,
                    width=6,
                ),
                Panel(
                    "Usage that waits",
                    "Records for the next write, records that the database did not take, and "
                    "journals of killed processes that are not imported yet.",
                    "short",
                    [
                        (total("usage_backlog_records"), "next write"),
                        (total("usage_unsaved_records"), "not taken"),
                        (total("usage_orphaned_journals"), "journals"),
                    ],
                    width=6,
                ),
                Panel(
                    "Idempotency-Key",
                    "A second: answers replayed for a repeated key, which cost nothing, and "
                    "failures of the store, which cost the guarantee.",
                    "reqps",
                    [
                        (rate("idempotent_replays_total"), "replayed"),
                        (rate("idempotency_store_failures_total"), "failures"),
                    ],
                    width=6,
                ),
                Panel(
                    "Streams that did not reach their end",
                    "A second, by who broke them off.",
                    "reqps",
                    [(rate("stream_incomplete_total", by="reason"), "{{reason}}")],
                    width=6,
                ),
            ],
        ),
    ],
)
