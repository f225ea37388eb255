"""Clients of Redis: of one server, or of the primary that Sentinel names.

Every wait has a limit. A client of Sentinel asks for the primary's address with each new
connection. A primary that became a replica refuses to write; its connection is then closed, so that
the next one goes to the new primary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from goblin_assistant.config.redis_address import is_sentinel, sentinel_address


def redis_client(
    url: str, *, connect_seconds: float, answer_seconds: float, retries: int, **more: Any
) -> redis.Redis:
    """A client for a URL that the configuration accepts. End it with `close`.

    `retries` are for connections that the server closed while they were idle. A timeout is never
    retried: that would double the wait.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": answer_seconds,
        "retry": Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
        **more,
    }
    if is_sentinel(url):
        return _sentinel_client(url, connect_seconds, options)
    client: redis.Redis = redis.Redis.from_url(
        url.replace("redis+unix://", "unix://", 1), **options
    )
    return client


def close(client: redis.Redis) -> None:
    """Close its connections, those to the sentinels too."""
    client.close()
    sentinels = getattr(client.connection_pool, "sentinel_manager", None)
    if sentinels is not None:
        sentinels.close()


def _sentinel_client(url: str, seconds: float, options: dict[str, Any]) -> redis.Redis:
    from redis.sentinel import SentinelConnectionPool  # only those with Sentinel pay for it

    address = sentinel_address(url)
    each = seconds / len(address.sentinels)
    sentinels = Sentinels(
        [
            redis.Redis(
                host,
                port,
                username=address.sentinel_username,
                password=address.sentinel_password,
                socket_connect_timeout=each,
                socket_timeout=each,
                decode_responses=True,
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
            for host, port in address.sentinels
        ]
    )
    pool = SentinelConnectionPool(
        address.service,
        sentinels,
        db=address.db,
        username=address.username,
        password=address.password,
        **options,
    )
    client: redis.Redis = redis.Redis.from_pool(pool)
    return client


class NoPrimaryError(redis.ConnectionError):
    """The sentinels do not name a primary. The text says why, without credentials."""


class Sentinels:
    """Asks the sentinels for the primary: what `SentinelConnectionPool` needs of redis-py's
    `Sentinel`. That one swaps places in its list without a lock, and two threads that do so at once
    can lose an address for good. This one keeps the list as it is.
    """

    def __init__(self, sentinels: Sequence[redis.Redis]) -> None:
        self._sentinels = tuple(sentinels)
        self._first = 0  # the one that answered last; any thread may set it

    def discover_master(self, service: str) -> tuple[str, int]:
        """(host, port) of the primary. Raises NoPrimaryError when no sentinel knows one."""
        problem = "no sentinel answers"
        count, first = len(self._sentinels), self._first
        for number in range(first, first + count):
            try:
                masters: Any = self._sentinels[number % count].sentinel_masters()
            except redis.AuthenticationError:
                problem = "a sentinel refuses the credentials"
                continue
            except redis.ResponseError as error:
                problem = f"a sentinel answers with an error: {type(error).__name__}"
                continue
            except (redis.RedisError, OSError):
                continue
            state = masters.get(service)
            if state is None:
                problem = f"the sentinels watch no service {service!r}"
            elif not state["is_master"] or state["is_sdown"] or state["is_odown"]:
                problem = f"the primary of {service!r} is down"
            else:
                self._first = number % count
                return str(state["ip"]), int(state["port"])
        raise NoPrimaryError(problem)

    def close(self) -> None:
        """Close the connections."""
        for sentinel in self._sentinels:
            sentinel.close()
