"""Runs scenarios of openai-agents, by the settings in its environment, and prints their results as
JSON. The models are its own names for them: `echo`, `openai/up/gpt-4o`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import openai
from agents import Agent, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel

set_tracing_disabled(True)
called: list[str] = []


class Place(BaseModel):
    city: str


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    called.append(city)
    return "12 degrees"


def agent(model: str, **options: Any) -> Agent[None]:
    return Agent(name="goblin", instructions="Be brief.", model=model, **options)


async def answer(model: str) -> dict[str, Any]:
    done = await Runner.run(agent(model), "hello there")
    usage = done.context_wrapper.usage
    return {"text": done.final_output, "input": usage.input_tokens, "output": usage.output_tokens}


async def stream(model: str) -> dict[str, Any]:
    running = Runner.run_streamed(agent(model), "hello there")
    text = ""
    async for event in running.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    assert text == running.final_output
    return {"text": text}


async def tools(model: str) -> dict[str, Any]:
    called.clear()
    done = await Runner.run(agent(model, tools=[get_weather]), "The weather?")
    return {"text": done.final_output, "called": list(called)}


async def obj(model: str) -> dict[str, Any]:
    done = await Runner.run(agent(model, output_type=Place), "Where?")
    return {"object": done.final_output.model_dump()}


async def error(model: str) -> dict[str, Any]:
    try:
        await Runner.run(agent(model), "hello there")
    except openai.APIStatusError as failed:
        return {"status": failed.status_code}
    raise AssertionError("it answered")


async def broken(model: str) -> dict[str, Any]:
    running = Runner.run_streamed(agent(model), "hello there")
    try:
        async for _ in running.stream_events():
            pass
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
