"""The proxy through which a provider is called: of its row, or of the environment.

The environment counts only when GOBLIN_PROVIDER_PROXY_FROM_ENV allows it: a variable that was set
for something else must not send prompts and keys another way.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.config.goblin_file import proxy_url


def proxy_of(row: ProviderRow, config: Config) -> str | None:
    """The proxy's URL, maybe with credentials, for a complete row; None for the direct way."""
    if row.proxy is not None:
        return row.proxy.get_secret_value() or None
    if not config.provider_proxy_from_env or not row.base_url:
        return None
    address = urlsplit(row.base_url)
    host = address.hostname or ""
    if _is_here(host) or _is_excepted(host, address.port, _variable(config, "no_proxy") or ""):
        return None
    found = _variable(config, f"{address.scheme}_proxy") or _variable(config, "all_proxy")
    return found if found is None or "://" in found else f"http://{found}"


def proxy_problems(name: str, row: ProviderRow, config: Config) -> Iterator[str]:
    """A line if the environment's proxy cannot be used. goblin.toml's was checked with the file."""
    proxy = proxy_of(row, config)
    try:
        proxy_url(SecretStr(proxy or ""))
    except ValueError as error:
        yield f"[providers.{name}]: the proxy of the environment: {error}"


def credentials_of(proxy: str) -> list[str]:
    """What must not be logged of a proxy's URL, in every form in which it is sent or written."""
    user, _, password = urlsplit(proxy).netloc.rpartition("@")[0].partition(":")
    if not user:
        return []
    plain = f"{unquote(user)}:{unquote(password)}"
    sent = base64.b64encode(plain.encode()).decode()
    return [password, unquote(password), f"{user}:{password}", plain, sent]


def _is_here(host: str) -> bool:
    # As Go and others do: a server on this machine is never behind a proxy.
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_excepted(host: str, port: int | None, excepted: str) -> bool:
    """Whether NO_PROXY has the host: by name, a parent's name, address, network, or * for all. An
    item may end in a port."""
    for item in excepted.lower().replace(",", " ").split():
        name, colon, its_port = item.rpartition(":")
        if colon and its_port.isdigit() and not name.endswith(":"):  # not the end of ::1
            if its_port != str(port):
                continue
            item = name
        item = item.lstrip(".").strip("[]")
        if item == "*" or host == item or host.endswith(f".{item}") or _is_within(host, item):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _variable(config: Config, name: str) -> str | None:
    # curl's order: lower case first.
    value = config.environ.get(name) or config.environ.get(name.upper())
    return value.strip() or None if value else None
