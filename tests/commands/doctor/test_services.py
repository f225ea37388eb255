"""Lines about providers and services."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from goblin_assistant.commands.doctor import services
from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding
from goblin_assistant.config import GoblinFile, ProviderRow
from tests.commands.doctor.conftest import SECRET, MakeContext, only, verdict
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.services import free_port


def openai(context: MakeContext, address: str, **settings: Any) -> Context:
    return context(openai_api_key="sk-" + SECRET, openai_base_url=address + "/v1", **settings)


def line(findings: Iterable[Finding], subject: str) -> Finding:
    """The only finding on a subject."""
    (found,) = [one for one in findings if one.subject == subject]
    return found


def answer(status: str, body: bytes = b'{"data": []}') -> Reply:
    return Reply.raw(
        b"HTTP/1.1 " + status.encode() + b"\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\nConnection: close\r\n\r\n" + body
    )


def test_providers_passes_when_each_answers(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("200 OK")
    found = list(services.providers(openai(context, fake_upstream.url)))
    assert [(one.subject, one.verdict) for one in found if one.subject == "openai"] == [
        ("openai", "ok")
    ]


def test_providers_fails_when_a_key_is_refused_or_nobody_answers(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("401 Unauthorized", b'{"error": {"message": "bad key"}}')
    dead = f"http://127.0.0.1:{free_port()}"
    for address, fix in ((fake_upstream.url, "key"), (dead, "connect")):
        made = openai(context, address)
        found = line(services.providers(made), "openai")
        assert found.verdict == "failure"
        assert fix in found.fix


def test_providers_fails_when_there_is_only_echo(context: MakeContext) -> None:
    assert [f.verdict for f in services.providers(context())] == ["ok", "warning", "ok"]


def test_providers_says_whom_echo_answers(context: MakeContext) -> None:
    def said(**settings: Any) -> str:
        return line(services.providers(context(**settings)), "echo").message

    assert said() == "answers API keys whose model list names it, and nobody else"
    assert said(env="development") == "answers"


def test_default_model_passes_when_it_answers_everybody_or_there_is_none(
    context: MakeContext,
) -> None:
    def found(**settings: Any) -> Finding:
        return line(services.providers(context(**settings)), "default model")

    none = found()
    assert (none.verdict, "is refused with 400" in none.message) == ("ok", True)
    assert found(env="development").message == "echo"
    file = GoblinFile(providers={"sim": ProviderRow(kind="echo")}, aliases={"usual": "sim/echo"})
    usual = found(file=file, default_model="usual")
    assert (usual.verdict, usual.message) == ("ok", "usual")


@pytest.mark.parametrize("name", ["gpt-9", "toy"])
def test_default_model_fails_when_nobody_serves_it_or_it_leads_to_echo(
    context: MakeContext, name: str
) -> None:
    made = context(file=GoblinFile(aliases={"toy": "echo"}), default_model=name)
    found = line(services.providers(made), "default model")
    assert (found.verdict, "GET /v1/models" in found.fix) == ("failure", True)
    assert f"GOBLIN_DEFAULT_MODEL={name} answers nobody" in found.message


def test_default_model_passes_when_the_providers_list_has_it(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("200 OK", b'{"data": [{"id": "gpt-new"}]}')
    made = openai(context, fake_upstream.url, default_model="gpt-new")
    assert line(services.providers(made), "default model").verdict == "ok"


def test_dependencies_passes_when_they_answer(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("200 OK")
    assert verdict(services.dependencies(context(sandbox_url=fake_upstream.url))) == "ok"
    assert list(services.dependencies(context())) == []


def test_dependencies_fails_when_they_do_not(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("410 Gone")
    found = only(services.dependencies(context(chroma_url=fake_upstream.url)))
    assert found.verdict == "failure"
    assert "answered 410" in found.message
    assert "CHROMA_URL" in found.fix
