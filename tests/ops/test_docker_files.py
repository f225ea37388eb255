"""The files of ops/docker agree with each other, with the settings and with the rest of ops."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from goblin_assistant.config import Config
from tests.conftest import wait_until
from tests.support.alert_rules import OPS, PROMETHEUS, ROOT, promtool
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.proxies import ComposedNginx
from tests.support.proxy_site import certificate

__all__ = ["certificate"]

DOCKER = OPS / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
APPS = {name: service for name, service in SERVICES.items() if name.startswith("app-")}
SETTINGS = {Config.env_name(name) for name in Config.model_fields if name != "file"}
OTHERS = {"PATH", "PYTHONDONTWRITEBYTECODE"}


def normal(name: str) -> str:
    """A package's name as indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", file.read_text(), re.M)
    return {normal(name): version for name, version in found}


def test_the_image_installs_the_versions_that_are_tested_each_with_a_hash() -> None:
    requirements = DOCKER / "requirements.txt"
    versions, tested = pinned(requirements), pinned(ROOT / "constraints.txt")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = {
        normal(re.split(r"[ \[<>=]", line)[0])
        for line in setup["options"]["install_requires"].split("\n")
        if line
    }
    assert needed - set(versions) == set()
    both = set(versions) & set(tested)
    assert {name: versions[name] for name in both} == {name: tested[name] for name in both}
    for block in re.split(r"^(?=[a-z])", requirements.read_text(), flags=re.M)[1:]:
        assert "--hash=sha256:" in block, block


def test_the_base_is_pinned_by_digest_and_everything_else_by_version() -> None:
    assert re.search(r"^ARG BASE=\S+:3\.13-slim@sha256:[0-9a-f]{64}$", DOCKERFILE, re.M)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)) == {"scratch", "${BASE}"}
    for name, service in SERVICES.items():
        if "build" not in service:
            assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", service["image"]), name


def test_nothing_gets_into_the_build_but_what_the_image_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = re.findall(r"^COPY ((?!--from)[^\n]+) \S+$", DOCKERFILE, re.M)
    assert let_in == {path for line in copied for path in line.split()}
    for hidden in ("**/.env*", "**/.flaskenv", "**/*.db"):
        assert rules.index(hidden) > max(rules.index(rule) for rule in rules if rule[0] == "!")


def test_every_variable_of_the_image_and_of_compose_is_a_setting() -> None:
    env = re.search(r"^ENV (PATH(?:.*\\\n)*.*)$", DOCKERFILE, re.M)
    assert env
    names = set(re.findall(r"(\w+)=", env[1]))
    for app in [*APPS.values(), SERVICES["migrate"]]:
        names |= {name.removesuffix("_FILE") for name in app["environment"]}
    assert names - SETTINGS - OTHERS == set()


def test_only_nginx_can_be_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert all("network_mode" not in service for service in SERVICES.values())
    # Storage and monitoring have no way out, and nginx no way in.
    assert COMPOSE["networks"]["back"] == COMPOSE["networks"]["watch"] == {"internal": True}
    assert set(SERVICES["nginx"]["networks"]) == {"front"}
    for name in ("postgres", "redis", "chroma", "migrate"):
        assert SERVICES[name]["networks"] == ["back"]


def test_the_instances_can_write_to_their_folder_and_to_tmp_only() -> None:
    for app in [*APPS.values(), SERVICES["migrate"]]:
        assert app["read_only"] is True
        assert app["cap_drop"] == ["ALL"]
        assert app["security_opt"] == ["no-new-privileges:true"]
        (volume,) = app["volumes"]
        assert volume.endswith(":/var/lib/goblin-assistant")
    volumes = [app["volumes"][0] for app in APPS.values()]
    assert len(set(volumes)) == len(APPS)  # a journal each
    assert "GOBLIN_INSTANCE_DIR=/var/lib/goblin-assistant" in DOCKERFILE
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.M)


def test_every_service_is_bounded_and_comes_back() -> None:
    for name, service in SERVICES.items():
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory"}, name
        assert service["logging"]["options"]["max-size"] == "100m"
        if name != "migrate":
            assert service["restart"] == "unless-stopped"
        # Chroma's image has no program for it; the image of the product has its own.
        if name not in {"chroma", "migrate", *APPS}:
            assert "test" in service["healthcheck"], name


def test_an_instance_starts_after_the_migration_and_has_time_to_drain() -> None:
    for app in APPS.values():
        needs = {name: row["condition"] for name, row in app["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }
        environ = {name: str(value) for name, value in app["environment"].items()}
        values = {k: v for k, v in environ.items() if not k.endswith("_FILE")}
        config = Config.load(environ=values | {"SECRET_KEY": "s" * 32}, dotenv=Path("/nonexistent"))
        drain = config.drain_delay_seconds + config.grace_seconds + 10
        assert int(app["stop_grace_period"].removesuffix("s")) >= drain
        assert config.instances == len(APPS)


def test_addresses_and_ports_agree() -> None:
    (port,) = re.findall(r"GOBLIN_PORT=(\d+)", DOCKERFILE)
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.M) == [port]
    nginx = SERVICES["nginx"]
    addresses = [app["networks"]["front"]["ipv4_address"] for app in APPS.values()]
    assert nginx["environment"]["GOBLIN_BACKENDS"].split() == [f"{ip}:{port}" for ip in addresses]
    scrape = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "goblin-assistant"
    targets = []
    for name, app in APPS.items():
        environment = app["environment"]
        assert environment["GOBLIN_TRUSTED_PROXY"] == nginx["networks"]["front"]["ipv4_address"]
        targets.append(f"{name}:{environment['GOBLIN_METRICS_PORT']}")
        for variable in ("CHROMA_URL", "PROMETHEUS_URL", "ALERTMANAGER_URL", "GRAFANA_URL"):
            host = re.match(r"http://([a-z]+):\d+$", environment[variable])
            assert host, variable
            assert set(SERVICES[host[1]]["networks"]) & set(app["networks"]), variable
    assert job["static_configs"] == [{"targets": targets}]


def test_every_file_that_compose_mounts_is_there() -> None:
    variables = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, _, _ = volume.rpartition(":/")
            source = source.rpartition(":/")[0] or source
            if source.startswith("."):
                assert (DOCKER / source).exists(), volume
            elif source.startswith("$"):
                variables.add(source[2:].split(":")[0])
            else:
                assert source in COMPOSE["volumes"], volume
    example = (DOCKER / "env.example").read_text()
    named = set(re.findall(r"\$\{(\w+)[:}]", (DOCKER / "compose.yaml").read_text()))
    assert variables <= named
    assert named - {"GOBLIN_IMAGE_TAG"} == set(re.findall(r"^(\w+)=", example, re.M))


def test_secrets_are_made_once_and_are_what_the_server_accepts(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = [str(DOCKER / "make-secrets.sh"), str(folder)]
    assert subprocess.run(script, check=True, capture_output=True).stdout == b""
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o077 == 0
    needed = {Path(row["file"]).name for row in COMPOSE["secrets"].values()}
    assert set(made) == needed
    assert len(set(made.values())) == len(made)
    (folder / "grafana_password").unlink()
    subprocess.run(script, check=True)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert again.pop("grafana_password") != made.pop("grafana_password")
    assert again == made
    environ = {name.upper() + "_FILE": str(folder / name) for name in ("secret_key", "redis_url")}
    environ["DATABASE_URL_FILE"] = str(folder / "database_url")
    config = Config.load(environ=environ, dotenv=tmp_path / "absent")
    assert made["postgres_password"] in config.sqlalchemy_url
    assert made["redis_password"] in str(config.redis_url)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "ops/docker/secrets/" in ignored


def test_nginx_gets_a_configuration_with_the_names_of_compose(tmp_path: Path) -> None:
    source = OPS / "proxy/nginx/goblin-assistant.conf"
    environment = SERVICES["nginx"]["environment"]
    made = tmp_path / "made.conf"
    subprocess.run(
        [str(DOCKER / "nginx-names.sh")],
        check=True,
        env={
            "PATH": os.environ["PATH"],
            "GOBLIN_NGINX_SOURCE": str(source),
            "GOBLIN_NGINX_TARGET": str(made),
            "GOBLIN_DOMAIN": "chat.example.org",
            "GOBLIN_BACKENDS": environment["GOBLIN_BACKENDS"],
        },
    )
    text = made.read_text()
    servers = re.findall(r"^ *server (\S+) max_fails=2 fail_timeout=5s;$", text, re.M)
    assert servers == environment["GOBLIN_BACKENDS"].split()
    count = source.read_text().count("api.yourdomain.com")
    assert count >= 2
    assert "api.yourdomain.com" not in re.sub(r"(?m)^#.*$", "", text)
    assert "server_name chat.example.org;" in text
    assert "access_log /dev/stdout" in text


def test_nginx_runs_with_what_the_script_of_compose_writes(
    certificate: Path, tmp_path: Path
) -> None:
    said = Reply.plain(200, b"here", "text/plain")
    servers = [FakeUpstream(default=said) for _ in range(2)]
    proxy = ComposedNginx(tmp_path / "nginx", certificate, [server.port for server in servers])
    try:
        proxy.start()
        assert [proxy.ask("GET", f"/{turn}").body for turn in range(6)] == [b"here"] * 6
        assert all(server.requests for server in servers)
        assert proxy.ask("GET", "/metrics").status == 404
        output = proxy.folder / "output"  # the container's own
        wait_until(lambda: '"path":"/5","status_code":200' in output.read_text(), 60, "the log")
    finally:
        proxy.stop()
        for server in servers:
            server.close()


def test_prometheus_reads_its_file_with_the_rules_as_compose_mounts_them(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "prometheus.yml", tmp_path / "prometheus.yml")
    shutil.copytree(PROMETHEUS / "rules", tmp_path / "rules")
    assert "3 rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))
    ours = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    first = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    for part in ("global", "rule_files"):
        assert ours[part] == first[part]
    source = yaml.safe_load((DOCKER / "grafana-datasource.yml").read_text())
    other = yaml.safe_load((OPS / "grafana/provisioning/datasources/goblin.yml").read_text())
    other["datasources"][0]["url"] = "http://prometheus:9090"
    assert source == other
