"""Tests that usage has every micro-dollar, and that the budget holds over all instances."""

from __future__ import annotations

import time

import requests

from goblin_assistant.commands.prove.deployment import KEY_COMMAND, ROWS, Deployment, at_once
from goblin_assistant.commands.prove.verdicts import Broken, NotTried, Seen
from goblin_assistant.money import to_microusd

PROMISE = "Costs are exact to the micro-dollar, and no more is reserved than the budget holds"
CHATS = 10
RIVALS = 12
FIT = 3
"""How many of the rivals fit into the budget."""
_TEXT = "seven words that the embedded provider counts"


def budget(deployment: Deployment, prices: tuple[int, int] | None = None) -> Seen:
    """Compare the cost of chats with the usage, then send rivals for the rest of the budget.

    `prices` are micro-dollars per million tokens of prompt and answer. None: the usage of one chat
    gives the cost of each.
    """
    each, tokens = _price_of_one(deployment, prices)
    before = deployment.settled_usage()
    at_once(CHATS, lambda _: _chat(deployment))
    added = deployment.usage_since(before, CHATS)
    text = (
        f"{CHATS} chats of {tokens[0]} and {tokens[1]} tokens at {each} micro-dollars: the usage "
        f"grew by {added.requests} records and {added.cost}, the spent budget by {added.spent}"
    )
    wanted = (CHATS, CHATS * each, CHATS * each, CHATS * tokens[0], CHATS * tokens[1])
    if wanted != (
        added.requests, added.cost, added.spent, added.prompt_tokens, added.completion_tokens
    ):  # fmt: skip
        raise Broken(f"{text}; it should be {CHATS * each}")
    held = _rivals(deployment)
    return Seen(
        f"{text}; {held}",
        {"chats": CHATS, "each_microusd": each, "added_microusd": added.cost},
    )


def _chat(deployment: Deployment) -> requests.Response:
    with deployment.session() as session:
        return deployment.good(deployment.post(session, _TEXT, max_tokens=20))


def _price_of_one(
    deployment: Deployment, prices: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    before = deployment.settled_usage()
    if before.spent is None:
        raise NotTried(f"the key has no budget: make one with: {KEY_COMMAND}")
    used = _chat(deployment).json()["usage"]
    tokens = (int(used["prompt_tokens"]), int(used["completion_tokens"]))
    each = deployment.usage_since(before, 1).cost
    if each == 0:
        raise NotTried(f"{deployment.model} is free here. Give it a price in goblin.toml: {ROWS}")
    if prices is not None:
        due = -(-(tokens[0] * prices[0] + tokens[1] * prices[1]) // 1_000_000)
        if due != each:
            raise Broken(
                f"{tokens[0]} and {tokens[1]} tokens cost {each} micro-dollars; "
                f"by --prices it is {due}"
            )
    return each, tokens


def _rivals(deployment: Deployment) -> str:
    """Send RIVALS chats at once. Each reserves a bit less than a third of the rest: three fit."""
    tokens = _tokens_for(deployment)
    began = time.monotonic()

    def rival(_: int) -> tuple[int, float, float]:
        with deployment.session() as session:
            answer = deployment.post(
                session, "the fastest of us " * 8, paced=True, streamed=True, max_tokens=tokens
            )
            decided = time.monotonic() - began
            if answer.status_code not in (200, 402):
                deployment.good(answer)
            for _ in answer.iter_lines():
                pass
            return answer.status_code, decided, time.monotonic() - began

    found = at_once(RIVALS, rival)
    admitted = [one for one in found if one[0] == 200]
    if admitted and max(one[1] for one in found) > min(one[2] for one in admitted):
        return "what is reserved at once was not tried: the deployment answers too slowly"
    if len(admitted) > FIT:
        raise Broken(
            f"{len(admitted)} of {RIVALS} chats at once were admitted, though the budget has room "
            f"for {FIT}: do all instances have the same DATABASE_URL?"
        )
    if len(admitted) < FIT:
        raise Broken(f"only {len(admitted)} of {RIVALS} chats at once found room for {FIT}")
    return f"of {RIVALS} chats at once that each may cost almost a third of the rest, {FIT} began"


def _tokens_for(deployment: Deployment) -> int:
    """The max_tokens for which a chat may cost between a quarter and a third of the rest."""
    probe = 10_000_000
    with deployment.session() as session:
        refused = deployment.post(session, "the fastest of us " * 8, paced=True, max_tokens=probe)
    if refused.status_code != 402:
        deployment.good(refused)
        raise NotTried(
            f"a chat with max_tokens {probe} fits into the key's budget: make a key with a "
            f"smaller one, or give {deployment.paced_model} a price. {KEY_COMMAND}"
        )
    body = refused.json()
    said = body["error"] if isinstance(body.get("error"), dict) else body
    left = to_microusd(said["budget_usd"]) - to_microusd(said["spent_usd"])
    left -= to_microusd(said["reserved_usd"])
    return probe * left * 3 // (to_microusd(said["needed_usd"]) * 10)
