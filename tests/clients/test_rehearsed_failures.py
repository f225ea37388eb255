"""The table of docs/clients.md: what OpenAI's and Anthropic's packages for Python raise for each
rehearsed failure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest

from tests.conftest import ROOT, Server, serving

HELLO: Any = [{"role": "user", "content": "one two three four five"}]


@dataclass(frozen=True)
class Row:
    """Models, and what each package raises, as the page says it."""

    models: tuple[str, ...]
    streamed: bool
    raised: dict[str, str]


def rows() -> list[Row]:
    page = (ROOT / "docs" / "clients.md").read_text()
    lines = page.partition("## Rehearse failures")[2].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `fault/")]
    return [
        Row(
            tuple(re.findall(r"`(fault/\w+)`", models)),
            "streamed" in models,
            {"openai": by_openai, "anthropic": by_anthropic},
        )
        for models, by_openai, by_anthropic in cells
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("rehearsed")) as start:
        yield start(GOBLIN_RETRIES="0", GOBLIN_HEALTH_INTERVAL="3600")


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.register()["Authorization"].removeprefix("Bearer ")


def by_openai(server: Server, token: str, model: str, stream: bool, heard: list[str]) -> None:
    with openai.OpenAI(api_key=token, base_url=f"{server.url}/v1", max_retries=0) as client:
        asked: Any = client.chat.completions.create(model=model, messages=HELLO, stream=stream)
        for chunk in asked:
            heard.append(chunk.choices[0].delta.content or "")


def by_anthropic(server: Server, token: str, model: str, stream: bool, heard: list[str]) -> None:
    with anthropic.Anthropic(auth_token=token, base_url=server.url, max_retries=0) as client:
        if not stream:
            client.messages.create(model=model, max_tokens=99, messages=HELLO)
            return
        with client.messages.stream(model=model, max_tokens=99, messages=HELLO) as made:
            for text in made.text_stream:
                heard.append(text)


Ask = Callable[[Server, str, str, bool, list[str]], None]
PACKAGES: dict[str, Ask] = {"openai": by_openai, "anthropic": by_anthropic}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.models[0].partition("/")[2])
def test_a_package_raises_what_the_page_says(server: Server, token: str, row: Row) -> None:
    def check(package: str, model: str, stream: bool) -> None:
        heard: list[str] = []
        with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
            PACKAGES[package](server, token, model, stream, heard)
        told, error = row.raised[package], caught.value
        named = re.search(r"`([A-Z]\w+)`", told)
        assert named is not None
        assert type(error).__name__ == named[1], model
        if status := re.search(r"status (\d+)", told):
            assert error.status_code == int(status[1]), model  # type: ignore[union-attr]
        if "Retry-After" in told:
            assert int(error.response.headers["retry-after"]) >= 1  # type: ignore[union-attr]
        for what, value in re.findall(r"(code|type) `(\w+)`", told):
            assert getattr(error, what) == value, model
        assert bool("".join(heard)) == ("some text" in told), model

    with ThreadPoolExecutor(8) as pool:  # some wait for three seconds
        asked = [
            pool.submit(check, package, model, stream)
            for package in PACKAGES
            for model in row.models
            for stream in ([True] if row.streamed else [False, True])
        ]
        for one in asked:
            one.result()


def test_the_page_has_a_row_for_most_failures() -> None:
    assert len({model for row in rows() for model in row.models}) >= 14
