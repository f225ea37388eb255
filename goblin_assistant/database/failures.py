"""What a failure of the database means, in words for operators."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# SQLite reports a missing table with the same class as a locked file.
_SQLITE_AWAY = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
)
_SQLITE_FILE = {
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database; check DATABASE_URL",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_READONLY: "the file cannot be written; check its owner and mode",
}

_POOLER = (
    "the pooler at DATABASE_URL refuses our time limits; in transaction mode set "
    "GOBLIN_DATABASE_POOLER=transaction, in session mode ignore_startup_parameters = options "
    "in pgbouncer.ini"
)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOST = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_CANCELED = "57014"  # query_canceled
_WAITED = frozenset({"55P03", _CANCELED})  # lock_not_available
_ROLLED_BACK = "40"  # the class: the transaction ended, not the server


class Conflict(Enum):
    """What ended one transaction, and says nothing about the database."""

    LOST = auto()
    """Another transaction went first (a deadlock, for example): trying again helps."""
    WAITED = auto()
    """It waited as long as it may, for a lock as a rule; or nobody knows whether it ended well."""


def conflict_of(error: BaseException) -> Conflict | None:
    """Which conflict with others a driver's error is; None: it is another failure."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        # A reader cannot write once another one has. SQLITE_BUSY itself is a database that is
        # locked for everybody.
        snapshot = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY_SNAPSHOT
        return Conflict.LOST if snapshot else None
    code = getattr(cause, "sqlstate", None) or ""
    if code in _LOST:
        return Conflict.LOST
    return Conflict.WAITED if code in _WAITED or code.startswith(_ROLLED_BACK) else None


def is_timeout(error: BaseException) -> bool:
    """Whether PostgreSQL ended a statement at its time limit (statement_timeout)."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if getattr(cause, "sqlstate", None) != _CANCELED:
        return False
    # An operator's cancelling has the same code. In another language it is taken for a timeout.
    return "user request" not in str(cause)


def does_not_answer(error: DBAPIError | PoolTimeout) -> bool:
    """Whether the database cannot be asked at present, so that trying again may help."""
    if isinstance(error, PoolTimeout | InterfaceError):
        return True
    if not isinstance(error, OperationalError) or _startup_refused(error):
        return False
    cause = error.orig
    return not isinstance(cause, sqlite3.Error) or _sqlite_code(cause) in _SQLITE_AWAY


def explain(error: DBAPIError | PoolTimeout) -> str:
    """What is wrong and what to do, for a failure that is an answer.

    Without the statement and its values: they may be personal data.
    """
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error) and (known := _SQLITE_FILE.get(_sqlite_code(cause))):
        return known
    if isinstance(error, DBAPIError) and _startup_refused(error):
        return _POOLER
    # PostgreSQL's first line names the fault; the values are in the lines after it.
    said = str(cause).partition("\n")[0] if cause is not None else type(error).__name__
    return f"its tables are not as the migrations made them ({said}); restore a backup"


def _startup_refused(error: DBAPIError) -> bool:
    # pgbouncer's text. The code beside it, protocol_violation, does not reach the driver's error.
    return "unsupported startup parameter" in str(error.orig)


def _sqlite_code(error: sqlite3.Error) -> int:
    # The low byte is the primary code (https://www.sqlite.org/rescode.html).
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
