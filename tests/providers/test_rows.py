"""Which providers there are: keys in the environment, rows in goblin.toml, plug-ins; and the
messages for rows that cannot work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from goblin_assistant.config import Config, ConfigError, GoblinFile
from goblin_assistant.providers import ENTRY_POINTS, Registry, build_registry
from goblin_assistant.providers.base import Model
from goblin_assistant.providers.echo.provider import EchoProvider
from goblin_assistant.providers.echo.simulation import FaultKind, SimulationOptions
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.rows import rows_of
from tests.conftest import ROOT
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.provider_wires import EXAMPLE
from tests.support.wire_bodies import llama_answer, openai_chat

AZURE = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"}


def config(
    toml: dict[str, Any] | None = None, dotenv: Path | None = None, **environ: str
) -> Config:
    """A configuration with these variables and this content of goblin.toml."""
    overrides = (
        {"file": GoblinFile.model_validate(toml)} if toml is not None else {"file": GoblinFile()}
    )
    return Config.load(
        overrides, environ={"SECRET_KEY": "x" * 40, **environ}, dotenv=dotenv or Path("no.env")
    )


def rows(
    toml: dict[str, Any] | None = None, dotenv: Path | None = None, **environ: str
) -> dict[str, Any]:
    """The rows that are switched on."""
    return dict(rows_of(config(toml, dotenv, **environ)))


def problems(toml: dict[str, Any], **environ: str) -> list[str]:
    """The problems of the rows."""
    with pytest.raises(ConfigError) as caught:
        build_registry(config(toml, None, **environ))
    return caught.value.problems


# -- presets ------------------------------------------------------------------------------------
def test_without_any_setting_there_is_echo_only() -> None:
    registry = build_registry(config())
    assert list(registry.providers) == ["echo"]
    assert list(build_registry(config(GOBLIN_ECHO_ENABLED="false")).providers) == []


@pytest.mark.parametrize(
    "name", [name for name, preset in PRESETS.items() if preset.key_required and name != "azure"]
)
def test_a_key_in_the_environment_switches_a_row_on(name: str) -> None:
    preset = PRESETS[name]
    found = rows(**{preset.api_key_env: "a-key"})
    assert list(found) == [name]
    assert (found[name].kind, found[name].base_url) == (preset.kind, preset.base_url)
    assert rows(**{preset.api_key_env: ""}) == {}


@pytest.mark.parametrize(
    "name", [name for name, preset in PRESETS.items() if not preset.key_required]
)
def test_a_local_servers_address_switches_its_row_on(name: str) -> None:
    variable = PRESETS[name].base_url_env
    assert rows(**{variable: "http://gpu:1234"})[name].base_url == "http://gpu:1234/v1"
    assert (
        rows(**{variable: "http://gpu:1234/own/path/"})[name].base_url == "http://gpu:1234/own/path"
    )
    assert rows(**{PRESETS[name].api_key_env: "k"}) == {}
    assert rows({"providers": {name: {}}})[name].base_url == PRESETS[name].base_url + "/v1"


def test_azure_needs_key_and_address() -> None:
    assert rows(AZURE_OPENAI_API_KEY="k") == {}
    row = rows(**AZURE)["azure"]
    assert row.base_url == "https://mine.openai.azure.com"
    assert row.query == {"api-version": "2024-10-21"}
    assert rows(**AZURE, AZURE_OPENAI_API_VERSION="2025-01-01-preview")["azure"].query == {
        "api-version": "2025-01-01-preview"
    }


def test_every_presets_quirks_are_quirks_and_its_headers_printable() -> None:
    for name, preset in PRESETS.items():
        if preset.kind == "openai_compatible":
            Quirks.model_validate(preset.options)
        assert preset.base_url.startswith("https://") or not preset.key_required or name == "azure"
        assert all(value.isascii() for value in preset.headers.values())


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("gpt-4o", "max_tokens"),
        ("gpt-5.4-mini", "max_completion_tokens"),
        ("o3", "max_completion_tokens"),
        ("omni", "max_tokens"),
    ],
)
def test_openais_reasoning_models_get_the_limit_under_the_name_that_they_know(
    fake_upstream: FakeUpstream, model: str, sent: str
) -> None:
    from tests.support.provider_wires import request

    fake_upstream.reply(Reply.json(200, openai_chat()))
    registry = build_registry(config(OPENAI_API_KEY="k", OPENAI_BASE_URL=fake_upstream.url))
    registry.get("openai").complete(request(model, max_tokens=7))
    body = fake_upstream.requests[0].json()
    assert {key for key in body if "tokens" in key} == {sent}
    registry.close()


def test_keys_in_dotenv_count_too(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("GROQ_API_KEY=from-file\nMY_KEY=also\n")
    found = rows(
        {"providers": {"mine": {"base_url": "http://x/v1", "api_key_env": "MY_KEY"}}}, dotenv
    )
    assert list(found) == ["mine", "groq"]


# -- rows ---------------------------------------------------------------------------------------
def test_a_row_overrides_its_preset_field_by_field(fake_upstream: FakeUpstream) -> None:
    toml = {
        "providers": {
            "mistral": {
                "base_url": fake_upstream.url,
                "models": ["mistral-small"],
                "options": {"drop_fields": ["seed"]},
                "headers": {"X-A": "1"},
            }
        }
    }
    row = rows(toml, MISTRAL_API_KEY="k")["mistral"]
    assert row.options == {**PRESETS["mistral"].options, "drop_fields": ["seed"]}
    registry = build_registry(config(toml, MISTRAL_API_KEY="k"))
    fake_upstream.reply(Reply.json(200, openai_chat()))
    provider, model = registry.find("mistral-small")[0]
    from tests.support.provider_wires import request

    provider.complete(request(model, seed=1, max_completion_tokens=3))
    sent = fake_upstream.requests[0]
    assert sent.headers["authorization"] == "Bearer k"
    assert sent.headers["x-a"] == "1"
    assert {key: sent.json().get(key) for key in ("seed", "max_tokens")} == {
        "seed": None,
        "max_tokens": 3,
    }
    registry.close()


def test_a_disabled_row_is_off_although_its_key_is_there() -> None:
    assert rows({"providers": {"openai": {"enabled": False}}}, OPENAI_API_KEY="k") == {}


def test_rows_keep_the_files_order_and_echo_is_first() -> None:
    toml = {
        "providers": {
            "b": {"base_url": "http://b"},
            "a": {"base_url": "http://a"},
            "echo": {"kind": "echo"},
        }
    }
    assert list(build_registry(config(toml, OPENAI_API_KEY="k")).providers) == [
        "echo",
        "b",
        "a",
        "openai",
    ]


def test_all_problems_of_rows_are_reported_at_once() -> None:
    found = problems(
        {
            "providers": {
                "groq": {},
                "own": {},
                "azure": {"api_key": "k"},
                "other": {"base_url": "http://x", "api_key_env": "NOT_SET"},
                "odd": {
                    "base_url": "http://x",
                    "options": {"steam_options": False, "max_tokens_field": "tokens"},
                },
                "sim": {"kind": "echo", "options": {"latency": "gauss:1", "error_rate": 2}},
                "what": {"kind": "carrier-pigeon"},
                "bad": {"base_url": "http://x", "api_key": "line\nbreak"},
            }
        }
    )
    text = "\n".join(found)
    assert "[providers.groq]: has no key; set GROQ_API_KEY" in text
    assert "[providers.own]: needs base_url" in text
    assert "[providers.azure]: needs base_url, or set AZURE_OPENAI_ENDPOINT" in text
    assert "[providers.other]: api_key_env names NOT_SET, which is not set" in text
    assert "[providers.odd] options.steam_options" in text
    assert "accepted: auth_header" in text
    assert "[providers.odd] options.max_tokens_field" in text
    assert "lognormal:median,sigma" in text
    assert "[providers.sim] options.error_rate" in text
    assert "[providers.what] kind = 'carrier-pigeon'" in text
    assert "accepted: anthropic, echo, faults, openai_compatible" in text
    assert "[providers.bad]: the key or a header" in text
    assert "line\nbreak" not in text


def test_a_models_row_says_what_is_known() -> None:
    toml = {
        "providers": {
            "own": {
                "base_url": "http://x",
                "models": ["a", {"id": "b", "capabilities": ["embeddings"], "context_window": 9}],
            }
        }
    }
    registry = build_registry(config(toml))
    assert registry.get("own").models() == (Model("a"), Model("b", frozenset({"embeddings"}), 9))


def test_keys_are_registered_for_redaction() -> None:
    from goblin_assistant.logs.json_logging import redact

    build_registry(
        config(
            {
                "providers": {
                    "own": {
                        "base_url": "http://x",
                        "api_key": "plain-looking",
                        "headers": {"X-Own-Token": "header-secret"},
                    }
                }
            }
        )
    )
    assert "plain-looking" not in redact("saw plain-looking and header-secret")
    assert "header-secret" not in redact("saw plain-looking and header-secret")


# -- registry -----------------------------------------------------------------------------------
def registry() -> Registry:
    """echo, and two servers that share a model."""
    return Registry(
        {
            "echo": EchoProvider(),
            "one": OpenAICompatibleProvider(
                "one", "http://one", models=[Model("shared"), Model("org/slashed")]
            ),
            "two": OpenAICompatibleProvider(
                "two", "http://two", fallback_models=[Model("shared"), Model("echo")]
            ),
        }
    )


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("echo", [("echo", "echo"), ("two", "echo")]),
        ("shared", [("one", "shared"), ("two", "shared")]),
        ("one/shared", [("one", "shared")]),
        ("two/anything", [("two", "anything")]),
        ("one/anything", []),
        ("org/slashed", [("one", "org/slashed")]),
        ("one/org/slashed", [("one", "org/slashed")]),
        ("two/", []),
        ("/shared", []),
        ("", []),
        ("nobody", []),
    ],
)
def test_a_model_is_found_by_provider_and_name_or_by_its_bare_id(
    asked: str, found: list[tuple[str, str]]
) -> None:
    assert [(provider.name, model) for provider, model in registry().find(asked)] == found


def test_labels_are_bounded_by_the_catalogues() -> None:
    made = registry()
    assert [made.label("one", "shared"), made.label("two", "made-up"), made.label("none", "x")] == [
        "shared",
        "other",
        "other",
    ]


def test_what_a_check_learns_is_found_from_then_on(fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, {"data": [{"id": "new"}]}))
    made = build_registry(config({"providers": {"own": {"base_url": fake_upstream.url}}}))
    assert made.find("new") == []
    made.get("own").check()
    assert [model for _, model in made.find("new")] == ["new"]
    assert made.label("own", "new") == "new"
    assert ("own", Model("new")) in made.models()
    made.close()


# -- plug-ins -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed into its own folder."""
    target = tmp_path_factory.mktemp("plugin")
    source = target / "source"  # pip builds in place: not in the repository
    import shutil

    shutil.copytree(
        EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--target",
            target / "lib",
            source,
        ],
        check=True,
        timeout=120,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return target / "lib"


def test_an_installed_plug_in_is_a_kind_of_row_and_answers(
    plugin: Path, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, llama_answer("From the plug-in.")))
    program = """
import json, sys
from goblin_assistant.config import Config, GoblinFile
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.base import ChatRequest
row = {"kind": "llamacpp_native", "base_url": sys.argv[1]}
file = GoblinFile.model_validate({"providers": {"local": row}})
registry = build_registry(Config.load({"file": file}, environ={"SECRET_KEY": "x" * 40}))
provider, model = registry.find("local/llama")[0]
answer = provider.complete(ChatRequest(model, {"messages": [{"role": "user", "content": "hi"}]}))
print(json.loads(answer.body)["choices"][0]["message"]["content"], type(provider).__module__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, fake_upstream.url],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=plugin,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{plugin}{os.pathsep}{ROOT}"},
    )
    assert done.stderr == ""
    assert done.stdout == "From the plug-in. goblin_llamacpp_native\n"
    assert json.loads(fake_upstream.requests[0].body)["prompt"] == "User: hi\nAssistant:"


def test_a_plug_in_that_cannot_be_loaded_is_a_configuration_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nbroken = no_such_module_here:Provider\nwrong = json:JSONDecoder\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = problems({"providers": {"a": {"kind": "broken"}, "b": {"kind": "wrong"}}})
    assert "its package cannot be loaded (ModuleNotFoundError" in found[0]
    assert "its package cannot be loaded (AttributeError" in found[1]


# -- documentation ------------------------------------------------------------------------------
def test_the_documentation_names_every_preset_with_its_variables_and_address_and_every_option() -> (
    None
):
    text = (ROOT / "docs" / "providers.md").read_text()
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    for name, preset in PRESETS.items():
        for word in (
            preset.api_key_env,
            preset.base_url_env,
            preset.base_url,
            *preset.query_env.values(),
        ):
            assert word in lines[name], f"{name}: {word}"
    for option in [*Quirks.model_fields, *SimulationOptions.model_fields, *get_args(FaultKind)]:
        assert f"`{option}`" in text, option
