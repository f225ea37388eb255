"""How the page is served: addresses with a hash, gzip, its policy, what is vendored, its size."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from flask.testing import FlaskClient

from goblin_assistant.blueprints.pages import POLICY
from goblin_assistant.web.page_files import page_files
from tests.conftest import ROOT, MakeApp

FOLDER = ROOT / "goblin_assistant" / "static" / "page"
VENDOR = FOLDER / "vendor"
MOST_BYTES = 120 * 1024
IMPORTS = re.compile(r"""(?:^|[;}\s])(?:import|export)[^;'"(]*?["'](\.{1,2}/[^"']+)["']""")
OTHERS = re.compile(rb"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""")


def address(name: str) -> str:
    return f"/static/{page_files().hash}/{name}"


def own_files() -> list[Path]:
    return [
        path for path in sorted(FOLDER.rglob("*")) if path.is_file() and VENDOR not in path.parents
    ]


def test_the_page_names_its_files_by_their_hash(client: FlaskClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    text = answer.get_data(as_text=True)
    assert "{{" not in text
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    assert len(named) >= 3
    for name in named:
        found = client.get(name)
        assert found.status_code == 200, name
        assert found.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_the_hash_follows_from_the_content(tmp_path: Path) -> None:
    files = page_files()
    digest = hashlib.sha256((FOLDER / "index.html").read_bytes())
    for name, file in files.files.items():
        assert file.plain == (FOLDER / name).read_bytes()
        digest.update(name.encode() + b"\0" + file.plain)
    assert files.hash == digest.hexdigest()[:16]


def test_the_page_itself_is_asked_for_each_time_and_not_sent_again(client: FlaskClient) -> None:
    first = client.get("/")
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.get_data() == b""


def test_files_are_sent_as_gzip_where_the_client_takes_it(client: FlaskClient) -> None:
    for path in ("/", address("main.js"), address("style/base.css")):
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        packed = client.get(path, headers={"Accept-Encoding": "gzip, deflate, br"})
        refused = client.get(path, headers={"Accept-Encoding": "gzip;q=0, identity"})
        assert "Content-Encoding" not in plain.headers
        assert "Content-Encoding" not in refused.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(packed.get_data()) == plain.get_data()
        assert packed.content_type == plain.content_type


def test_another_releases_hash_gives_this_releases_file_but_not_to_keep(
    client: FlaskClient,
) -> None:
    answer = client.get("/static/0123456789abcdef/main.js")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["nothing.js", "../pages.py", "index.html", "vendor/marked/LICENSE", "vendored.json"]
)
def test_nothing_else_is_served(client: FlaskClient, name: str) -> None:
    assert client.get(address(name)).status_code == 404


def test_the_policy_is_the_strict_one(client: FlaskClient) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    assert policy == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types dompurify goblin"
    )
    assert policy == POLICY
    text = client.get("/").get_data(as_text=True)
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\bstyle=|<style|\bon[a-z]+=", text)


def test_no_file_of_ours_names_another_host() -> None:
    allowed = {b"//www.w3.org"}  # the name of SVG's elements, which nobody asks for
    for path in own_files():
        if path.suffix in (".js", ".css", ".html", ".svg"):
            assert set(OTHERS.findall(path.read_bytes())) - {b"http:" + one for one in allowed} == (
                set()
            ), path


def test_what_is_vendored_is_what_npm_gave_and_says_its_licence() -> None:
    listed = json.loads((VENDOR / "vendored.json").read_text())
    assert {row["package"] for row in listed} == {
        "@highlightjs/cdn-assets", "dompurify", "marked", "uplot"
    }  # fmt: skip
    hashes: dict[str, str] = {}
    for row in listed:
        assert re.fullmatch(r"\d+\.\d+\.\d+", row["version"])
        assert row["license"] in {"MIT", "BSD-3-Clause", "(MPL-2.0 OR Apache-2.0)"}
        assert row["integrity"].startswith("sha512-")
        assert any(name.endswith("/LICENSE") for name in row["files"]), row["package"]
        hashes |= {name: file["sha256"] for name, file in row["files"].items()}
    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.parent != VENDOR
    }
    assert found == hashes
    assert len([name for name in found if "/languages/" in name]) == 15


def loaded_by(name: str) -> set[str]:
    """A module and all that it imports, however deep; import() when asked for does not count."""
    found: set[str] = set()
    left = [name]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        text = page_files().files[one].plain.decode()
        left += [urljoin(one, other) for other in IMPORTS.findall(text)]
    return found


def test_the_chat_takes_at_most_120_kb() -> None:
    files = page_files()
    names = loaded_by("main.js") | {name for name in files.files if name.startswith("chat/")}
    for name in list(names):
        names |= loaded_by(name) if name.endswith(".js") else set()
    names |= {name for name in files.files if name.startswith("style/")}
    assert {"session.js", "style/base.css", "shell/rooms.js"} <= names
    assert "vendor/uplot/uPlot.esm.js" not in names
    size = sum(len(files.files[name].packed) for name in names) + len(
        gzip.compress(files.index.encode())
    )
    assert size <= MOST_BYTES


def test_the_page_is_not_counted_by_any_limit(make_app: MakeApp) -> None:
    client = make_app(ratelimit_enabled=True, ratelimit_default="2 per minute").test_client()
    for _ in range(8):
        assert client.get("/").status_code == 200
        answer = client.get(address("main.js"))
        assert answer.status_code == 200
        assert "X-RateLimit-Limit" not in answer.headers


def test_without_the_page_its_routes_are_gone_and_the_api_stays(make_app: MakeApp) -> None:
    client = make_app(page=False).test_client()
    for method, path in (
        ("GET", "/"), ("GET", address("main.js")), ("POST", "/auth/session"),
    ):  # fmt: skip
        assert client.open(path, method=method).status_code == 404
    assert client.get("/health").status_code == 200
    assert client.get("/docs").status_code == 200
