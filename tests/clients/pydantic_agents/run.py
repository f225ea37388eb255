"""Runs scenarios of pydantic-ai, by the settings in its environment, and prints their results as
JSON. The models are its own names for them: `openai:echo`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError

called: list[str] = []


class Place(BaseModel):
    city: str


def get_weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "12 degrees"


async def answer(model: str) -> dict[str, Any]:
    done = await Agent(model, instructions="Be brief.").run("hello there")
    return {
        "text": done.output, "input": done.usage.input_tokens, "output": done.usage.output_tokens
    }  # fmt: skip


async def stream(model: str) -> dict[str, Any]:
    async with Agent(model).run_stream("hello there") as running:
        text = "".join([piece async for piece in running.stream_text(delta=True, debounce_by=None)])
    return {"text": text}


async def tools(model: str) -> dict[str, Any]:
    called.clear()
    done = await Agent(model, tools=[get_weather]).run("The weather?")
    return {"text": done.output, "called": list(called)}


async def obj(model: str) -> dict[str, Any]:
    done = await Agent(model, output_type=Place).run("Where?")
    return {"object": done.output.model_dump()}


async def error(model: str) -> dict[str, Any]:
    try:
        await Agent(model).run("hello there")
    except ModelHTTPError as failed:
        return {"status": failed.status_code}
    raise AssertionError("it answered")


async def broken(model: str) -> dict[str, Any]:
    try:
        await stream(model)
    except Exception as failed:
        return {"message": str(failed)}
    raise AssertionError("it ended")


SCENARIOS = {
    "answer": answer, "stream": stream, "tools": tools, "object": obj, "error": error,
    "broken": broken,
}  # fmt: skip


async def main() -> None:
    wanted = json.loads(sys.argv[1])
    print(json.dumps([await SCENARIOS[name](model) for name, model in wanted]))


asyncio.run(main())
