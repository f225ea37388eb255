"""Lines about providers and services."""

from __future__ import annotations

from goblin_assistant.commands.doctor import services
from tests.commands.doctor.conftest import SECRET, MakeContext, only, verdict
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.services import free_port


def openai(context: MakeContext, address: str) -> object:
    return context(openai_api_key="sk-" + SECRET, openai_base_url=address + "/v1")


def answer(status: str, body: bytes = b'{"data": []}') -> Reply:
    return Reply.raw(
        b"HTTP/1.1 " + status.encode() + b"\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\nConnection: close\r\n\r\n" + body
    )


def test_providers_passes_when_each_answers(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("200 OK")
    found = list(services.providers(openai(context, fake_upstream.url)))  # type: ignore[arg-type]
    assert [(one.subject, one.verdict) for one in found if one.subject != "echo"] == [
        ("openai", "ok")
    ]


def test_providers_fails_when_a_key_is_refused_or_nobody_answers(
    context: MakeContext, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.default = answer("401 Unauthorized", b'{"error": {"message": "bad key"}}')
    dead = f"http://127.0.0.1:{free_port()}"
    for address, fix in ((fake_upstream.url, "key"), (dead, "connect")):
        made = openai(context, address)
        (found,) = [f for f in services.providers(made) if f.subject == "openai"]  # type: ignore[arg-type]
        assert found.verdict == "failure"
        assert fix in found.fix


def test_providers_fails_when_there_is_only_echo(context: MakeContext) -> None:
    assert [f.verdict for f in services.providers(context())] == ["ok", "warning"]


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
