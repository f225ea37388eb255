"""Usage and money."""

from __future__ import annotations

from ops.grafana.source.panels import Board, Panel, rate


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
                ),
                Panel(
                    "Answers replayed",
                    "A second, for a repeated Idempotency-Key: they cost nothing.",
                    "reqps",
                    [(rate("idempotent_replays_total"), "replayed")],
                ),
                Panel(
                    "Streams that did not reach their end",
                    "A second, by who broke them off.",
                    "reqps",
                    [(rate("stream_incomplete_total", by="reason"), "{{reason}}")],
                ),
            ],
        ),
    ],
)
