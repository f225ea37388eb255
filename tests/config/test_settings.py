"""Settings: all problems are reported at once, no secret is shown, the documentation is fresh."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from goblin_assistant.config import Config, ConfigError, docs
from tests.conftest import ROOT

SECRET = "s" * 32


def problems(tmp_path: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        Config.load(environ=environ, dotenv=tmp_path / ".env")
    return raised.value.problems


def test_every_problem_is_reported_at_once_by_name_with_what_is_accepted(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        GOBLIN_THREDS="1",
        GOBLIN_PORT="abc",
        LOG_LEVEL="LOUD",
        RATELIMIT_AUTH="ten",
        GOBLIN_CHAT_SLOTS="100",
        CORS_ORIGINS="*,example.com/x",
        DATABASE_URL="mysql://x",
    )
    text = "\n".join(found)
    for expected in (
        "GOBLIN_THREDS: unknown setting; did you mean GOBLIN_THREADS?",
        "GOBLIN_PORT=abc",
        "'INFO', 'WARNING'",
        "'10 per minute'",
        "GOBLIN_CHAT_SLOTS=100: must be below GOBLIN_THREADS=64",
        "SECRET_KEY: required",
        "CORS_ORIGINS: * is refused in production",
        "'example.com/x' is no origin",
        "DATABASE_URL: accepted",
    ):
        assert expected in text
    assert len(found) == 9


def test_a_loose_boolean_is_refused_and_no_means_no(tmp_path: Path) -> None:
    assert (
        "RATELIMIT_ENABLED" in problems(tmp_path, SECRET_KEY=SECRET, RATELIMIT_ENABLED="perhaps")[0]
    )
    assert not Config.load(
        environ={"SECRET_KEY": SECRET, "RATELIMIT_ENABLED": "no"}
    ).ratelimit_enabled


def test_a_short_or_wrong_secret_is_refused_and_never_repeated(tmp_path: Path) -> None:
    found = problems(tmp_path, SECRET_KEY="short-canary")
    assert "32 bytes" in found[0]
    assert "canary" not in found[0]


def test_the_environment_wins_over_the_file_and_empty_means_default(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"SECRET_KEY={SECRET}\nLOG_LEVEL=DEBUG\nGOBLIN_PORT=9000\nREDIS_URL=\n")
    config = Config.load(environ={"LOG_LEVEL": "ERROR"}, dotenv=dotenv)
    assert (config.log_level, config.port, config.redis_url) == ("ERROR", 9000, None)


def test_production_is_closed_and_development_makes_its_own_secret_once(tmp_path: Path) -> None:
    assert not Config.load(environ={"SECRET_KEY": SECRET}).registration_open
    overrides = {"env": "development", "instance_dir": tmp_path}
    first = Config.load(overrides, environ={})
    assert first.registration_open
    assert Config.load(overrides, environ={}).secret == first.secret
    assert (tmp_path / "development_secret_key").stat().st_mode & 0o077 == 0


def test_goblin_toml_is_checked_like_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "goblin.toml"
    file.write_text('[providers.Bad]\nbase_url = "ftp://x"\nmodles = []\n[chains]\nempty = []\n')
    text = "\n".join(problems(tmp_path, SECRET_KEY=SECRET, GOBLIN_CONFIG_FILE=str(file)))
    assert "base_url" in text
    assert "modles" in text
    file.write_text("not toml")
    assert "not TOML" in problems(tmp_path, SECRET_KEY=SECRET, GOBLIN_CONFIG_FILE=str(file))[0]
    assert (
        "does not exist"
        in problems(tmp_path, SECRET_KEY=SECRET, GOBLIN_CONFIG_FILE=str(tmp_path / "no"))[0]
    )


def test_the_example_file_is_valid(tmp_path: Path) -> None:
    config = Config.load(
        {"config_file": ROOT / "goblin.toml.example"}, environ={"SECRET_KEY": SECRET}
    )
    assert config.file.chains["safe"] == ["team/large", "local/llama3.2"]


def test_a_printout_shows_every_setting_and_no_secret() -> None:
    config = Config.load(
        environ={
            "SECRET_KEY": SECRET,
            "OPENAI_API_KEY": "sk-canary",
            "DATABASE_URL": "postgresql://u:canary@db/x",
            "REDIS_URL": "redis://:canary@cache:6379/0",
        }
    )
    shown = str(config.redacted())
    assert SECRET not in shown
    assert "canary" not in shown
    assert "postgresql://u:" in shown
    assert set(config.redacted()) == {name for name, _ in docs.fields()}
    assert "canary" not in repr(config)


def test_every_setting_has_a_help_text() -> None:
    assert [name for name, info in docs.fields() if not info.description] == []


def test_the_generated_documentation_is_fresh() -> None:
    assert (ROOT / ".env.example").read_text() == docs.env_example(), "run: make docs"
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert docs.table() in page, "run: make docs"


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "from goblin_assistant.cli import main; main()", "serve"],
        ["-c", "from goblin_assistant.cli import main; main()", "config"],
        ["-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import wsgi"],
    ],
    ids=["serve", "config", "wsgi"],
)
def test_a_wrong_configuration_exits_2_and_says_why(tmp_path: Path, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LOG_LEVEL": "LOUD"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "LOG_LEVEL=LOUD" in done.stderr
    assert "SECRET_KEY: required" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"GOBLIN_CHATS_WAITING": "7"}, "GOBLIN_CHATS_WAITING=7: at most 6"),
        ({"GOBLIN_LOGINS_AT_ONCE": "63"}, "GOBLIN_LOGINS_AT_ONCE=63: at most 62"),
    ],
)
def test_threads_for_waiting_leave_some_for_health(
    tmp_path: Path, environ: dict[str, str], told: str
) -> None:
    assert told in "\n".join(problems(tmp_path, SECRET_KEY=SECRET, **environ))


@pytest.mark.parametrize("threads", [4, 5, 8, 15, 16, 17, 64, 2048])
def test_the_threads_of_every_default_fit_together(tmp_path: Path, threads: int) -> None:
    for slots in (None, 1, threads - 2, threads - 1):
        values = {"secret_key": SECRET, "threads": threads, "chat_slots": slots}
        config = Config.load(values, environ={}, dotenv=tmp_path / ".env")
        assert config.reserved_threads >= 1
        assert config.slots + config.most_chats_waiting <= config.held_threads < threads
        assert 1 <= config.most_logins <= config.held_threads


def test_the_secret_of_a_row_is_read_where_the_configuration_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "goblin.toml").write_text(
        '[providers.up]\nbase_url = "http://up/v1"\napi_key_env = "UP_KEY"\n'
    )
    (tmp_path / ".env").write_text("UP_KEY=from-the-env-file\n")
    monkeypatch.setenv("UP_KEY", "of-another-process")
    environ = {"GOBLIN_CONFIG_FILE": str(tmp_path / "goblin.toml"), "SECRET_KEY": SECRET}
    assert (
        "from-the-env-file"
        in Config.load(environ=environ, dotenv=tmp_path / ".env").secret_values()
    )
    environ["UP_KEY"] = "given"
    values = Config.load(environ=environ, dotenv=tmp_path / ".env").secret_values()
    assert "given" in values
    assert "of-another-process" not in values


def test_a_limit_of_goblin_toml_counts_where_no_setting_is(tmp_path: Path) -> None:
    file = tmp_path / "goblin.toml"
    file.write_text('[limits]\nchat = "7 per minute"\nauth = "8 per minute"\n')
    environ = {
        "SECRET_KEY": SECRET,
        "GOBLIN_CONFIG_FILE": str(file),
        "RATELIMIT_AUTH": "9 per minute",
    }
    config = Config.load(environ=environ, dotenv=tmp_path / ".env")
    assert config.ratelimit_chat == "7 per minute"
    assert config.ratelimit_auth == "9 per minute"
    assert config.ratelimit_health == "60 per minute"


def test_the_example_file_has_the_guides_two_samples(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    assert "# accepted: DEBUG, INFO, WARNING, ERROR, CRITICAL\n# LOG_LEVEL=INFO\n" in text
    origins = "http://localhost:3000,https://yourdomain.com,https://www.yourdomain.com"
    sample = f"# for example: CORS_ORIGINS={origins}\n"
    assert sample in text
    dotenv = tmp_path / ".env"
    uncommented = text.replace(sample, sample.removeprefix("# for example: "))
    dotenv.write_text(uncommented.replace("# LOG_LEVEL=INFO", "LOG_LEVEL=WARNING"))
    config = Config.load(environ={"SECRET_KEY": SECRET}, dotenv=dotenv)
    assert config.cors_origins == origins.split(",")
    assert config.log_level == "WARNING"


def test_a_setting_and_a_providers_key_can_come_from_files(tmp_path: Path) -> None:
    secret, key = tmp_path / "secret-key", tmp_path / "gemini"
    secret.write_text(SECRET + "\n")
    key.write_text("key-of-gemini\r\n")
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"SECRET_KEY={'e' * 32}\nGEMINI_API_KEY_FILE={key}\n")
    environ = {
        "SECRET_KEY_FILE": str(secret),
        "REDIS_URL": "redis://cache/0",
        "REDIS_URL_FILE": "",
        "GOBLIN_LOG_FILE": str(tmp_path / "not-there-yet"),
        "SSL_CERT_FILE": str(tmp_path / "of-somebody-else"),
    }
    config = Config.load(environ=environ, dotenv=dotenv)
    assert config.secret == SECRET
    assert config.redis_url == "redis://cache/0"
    assert config.environ["GEMINI_API_KEY"] == "key-of-gemini"
    assert config.log_file == tmp_path / "not-there-yet"
    secret.write_text("n" * 32)
    assert config.load_again().secret == "n" * 32


def test_a_file_that_cannot_be_read_is_reported_without_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    found = problems(
        tmp_path,
        SECRET_KEY_FILE="the-secret-itself-by-mistake",
        DATABASE_URL_FILE=str(tmp_path / "binary"),
        REDIS_URL="redis://cache/0",
        REDIS_URL_FILE="/run/secrets/redis-url",
        GOBLIN_THREDS_FILE="/run/secrets/threads",
    )
    text = "\n".join(found)
    assert "SECRET_KEY_FILE: the file that it names cannot be read: No such file" in text
    assert "DATABASE_URL_FILE: the file that it names cannot be read: not UTF-8 text" in text
    assert "REDIS_URL: set, and REDIS_URL_FILE too; keep one of them" in text
    assert "GOBLIN_THREDS_FILE: unknown setting" in text
    assert "by-mistake" not in text
