"""What SIGHUP does: the log's file is opened again, and part of the configuration is read again.

Aliases, chains, weighted groups, prices and limits are checked first and then replaced together.
When anything is wrong, all of the old ones stay. Chats in flight end by the old ones. Whatever else
has changed needs a restart; a log line names it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from types import FrameType

from goblin_assistant.assembly import make_prices
from goblin_assistant.config import Config, ConfigError, GoblinFile
from goblin_assistant.logs import json_logging
from goblin_assistant.metrics import config_last_reload_successful, config_reloads_total
from goblin_assistant.routing.targets import Resolver, check_routes
from goblin_assistant.runtime import Runtime
from goblin_assistant.server.shutdown import Shutdown

logger = logging.getLogger("goblin_assistant.server")

TABLES = ("aliases", "chains", "weighted", "prices", "limits")
"""The tables of goblin.toml that a reload replaces."""
LIMITS = (
    "ratelimit_auth",
    "ratelimit_chat",
    "ratelimit_health",
    "ratelimit_default",
    "ratelimit_login_account",
)
"""The settings that a reload replaces; `.env` and goblin.toml may change them."""


STDIN = 0


class Hangup:
    """SIGHUP. From an operator it means a reload, from a terminal that was closed the end.

    `wake` ends the main loop's wait.
    """

    def __init__(self, reloader: Reloader, shutdown: Shutdown, wake: Callable[[], None]) -> None:
        self._reloader = reloader
        self._shutdown = shutdown
        self._wake = wake
        self._received = False
        self._in_terminal = os.isatty(STDIN)

    def handle_signal(self) -> None:
        """Handle SIGHUP from now on. For the main thread."""
        signal.signal(signal.SIGHUP, self._on_signal)
        json_logging.reopen()  # a SIGHUP before this was ignored

    def turn(self) -> None:
        """Begin the reload that was asked for, once the one before has ended."""
        if self._received:
            # Cleared first: a signal during start() asks for another reload.
            self._received = False
            if not self._reloader.start():
                self._received = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._in_terminal and _terminal_has_gone():
            self._shutdown.on_signal(number, frame)
        else:
            self._received = True
            self._wake()


def _terminal_has_gone() -> bool:
    poll = select.poll()
    poll.register(STDIN, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


class Reloader:
    """Reloads in a thread of its own, because reading and checking take milliseconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin a reload; False while another one runs."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = threading.Thread(target=self.reload, name="reload", daemon=True)
        self._thread.start()
        return True

    def reload(self) -> None:
        """Reload now. Logs and counts how it ended; raises nothing."""
        json_logging.reopen()
        try:
            applied, left = self._apply()
        except ConfigError as error:
            self._failed(error.problems)
        except Exception as error:
            logger.exception("reload_failed")
            self._failed([f"{type(error).__name__}: {error}"])
        else:
            config_reloads_total.labels("ok").inc()
            config_last_reload_successful.set(1)
            logger.info("configuration_reloaded", extra={"changed": applied})
            if left:
                logger.warning("restart_needed", extra={"changed": left})

    def _failed(self, problems: list[str]) -> None:
        config_reloads_total.labels("failed").inc()
        config_last_reload_successful.set(0)
        logger.error("configuration_not_reloaded", extra={"problems": problems})

    def _apply(self) -> tuple[list[str], list[str]]:
        """What was replaced, and what needs a restart. Raises ConfigError and then changes
        nothing."""
        runtime = self._runtime
        path = runtime.config.config_file
        if runtime.config.file != GoblinFile() and not path.is_file():
            raise ConfigError([f"{path} does not exist any more"])
        read = runtime.config.load_again()
        json_logging.register_secrets(read.secret_values())
        left = restart_needed(runtime.config, read)
        config = _merged(runtime.config, read)
        try:
            check_routes(config.file, runtime.registry)
        except ConfigError as error:
            rows = [name for name in left if name.startswith("providers.")]
            hint = [f"{name}: a provider row needs a restart" for name in rows]
            raise ConfigError([*error.problems, *hint]) from None
        resolver, prices = Resolver(config.file, runtime.registry), make_prices(config)
        applied = _changed(runtime.config, config)
        runtime.chat.tables.replace(resolver, prices)
        runtime.rate_limits.use(config)
        runtime.config = config
        return applied, left


def _merged(running: Config, read: Config) -> Config:
    """The running configuration with what a reload replaces."""
    tables = {name: getattr(read.file, name) for name in TABLES}
    limits = {name: getattr(read, name) for name in LIMITS}
    return running.model_copy(update={"file": running.file.model_copy(update=tables), **limits})


def _changed(before: Config, after: Config) -> list[str]:
    """The names of tables and settings that differ."""
    names = [name for name in TABLES if getattr(before.file, name) != getattr(after.file, name)]
    names += [
        Config.env_name(name) for name in LIMITS if getattr(before, name) != getattr(after, name)
    ]
    return names


def restart_needed(running: Config, read: Config) -> list[str]:
    """The names of what has changed and takes effect at the next start: settings, variables of
    `.env` and `providers.<name>`."""
    settings = {name: Config.env_name(name) for name in Config.model_fields if name != "file"}
    names = [
        env
        for name, env in settings.items()
        if name not in LIMITS and getattr(running, name) != getattr(read, name)
    ]
    variables = {*running.environ, *read.environ} - set(settings.values())
    names += sorted(
        name for name in variables if running.environ.get(name) != read.environ.get(name)
    )
    return names + _changed_rows(running.file, read.file)


def _changed_rows(running: GoblinFile, read: GoblinFile) -> list[str]:
    rows = sorted({*running.providers, *read.providers})
    return [
        f"providers.{name}"
        for name in rows
        if running.providers.get(name) != read.providers.get(name)
    ]
