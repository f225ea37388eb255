"""One Locust process: its scenario, what is recorded, and the verdict.

The verdict is shown in the terminal, on the web page and in the HTML report.
"""

from __future__ import annotations

import html
import json
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
from flask import Response, request
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.account import Account, AccountError
from loadtest.schedule import multiple_of_rates
from loadtest.users import SCHEDULED, GuideUser, StreamUser, TargetsShape, schedule
from loadtest.verdict import (
    COLUMNS,
    LAST_VERDICT,
    STREAM_TARGETS,
    TARGETS,
    Recorder,
    Verdict,
    as_json,
    as_text,
    cells,
    heading,
    judge,
    no_verdict,
)

logger = logging.getLogger("goblin_loadtest")

SCENARIOS = ("guide", "targets", "stream")
WARM_UP_SECONDS = 2.0
"""Left out of a scheduled run: the server's first requests and the start of the schedule."""


class Session:
    """The options of the command line (or web page) and the measurements so far."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.recorder = Recorder()
        self._began = 0.0
        self._ended: float | None = None
        self.obstacle = ""

    @property
    def scenario(self) -> str:
        """guide, targets or stream."""
        options = self.environment.parsed_options
        return str(options.scenario) if options else "guide"

    @property
    def multiple(self) -> float:
        """Multiple of the guide's rates, in the targets scenario."""
        options = self.environment.parsed_options
        return float(options.multiple) if options else 1.0

    def choose(self) -> None:
        """Put the scenario's users in place."""
        by_scenario: dict[str, list[Any]] = {
            "guide": [GuideUser],
            "targets": [*SCHEDULED],
            "stream": [StreamUser],
        }
        chosen = by_scenario[self.scenario]
        # Workers need the schedule too: the master names the users that they create.
        users = schedule(self.multiple)
        if isinstance(self.environment.runner, WorkerRunner):
            chosen = [GuideUser, *SCHEDULED, StreamUser]
        elif self.scenario == "targets":
            shape = TargetsShape()
            shape.users = users
            shape.runner = self.environment.runner
            self.environment.shape_class = shape
        self.environment.user_classes[:] = chosen

    def begin(self) -> None:
        """Start a run with a new account and an empty record."""
        options = self.environment.parsed_options
        self.environment.goblin_account = Account(  # type: ignore[attr-defined]
            self.environment.host or "",
            (options.account_email or None) if options else None,
            (options.account_password or None) if options else None,
        )
        self.recorder.clear()
        self._began = 0.0
        if self.obstacle:  # left from the previous run on the web page
            self.obstacle = ""
            self.environment.process_exit_code = None
        if not isinstance(self.environment.runner, MasterRunner):  # its workers send the requests
            try:
                self.environment.goblin_account.headers()  # type: ignore[attr-defined]
            except AccountError as error:
                self.give_up(str(error))
                return
        self._began = time.monotonic() + (WARM_UP_SECONDS if self.scenario == "targets" else 0.0)
        self._ended = None

    def give_up(self, why: str) -> None:
        """End a run that cannot begin."""
        logger.error("The load test cannot begin: %s", why)
        self.obstacle = why
        self.environment.process_exit_code = 1
        runner = self.environment.runner
        # A worker reports to its master, which ends the run.
        if runner is not None and not isinstance(runner, WorkerRunner):
            # Locust still creates users when this returns; they find no account and end.
            gevent.spawn(runner.quit if self.environment.web_ui is None else runner.stop)

    def end(self) -> None:
        """End the run; later answers do not count."""
        self._ended = time.monotonic()

    def note(
        self, name: str, milliseconds: float, exception: object, context: dict[str, Any]
    ) -> None:
        """Record one request that Locust reports."""
        now = time.monotonic()
        if not self._began or now < self._began or self._ended is not None:
            return
        outcome = "failed" if exception else "limited" if context.get("limited") else "ok"
        milliseconds += context.get("late_ms", 0.0)
        target, name = context.get("target"), context.get("scenario", name)
        self.recorder.note(target, name, milliseconds, outcome)  # type: ignore[arg-type]

    def verdict(self) -> Verdict:
        """The verdict on the measurements so far."""
        if self.obstacle:
            return no_verdict(f"The load test did not begin: {self.obstacle}")
        end = self._ended if self._ended is not None else time.monotonic()
        if self._began > end:
            return no_verdict(
                f"The run was over before its warm-up of {WARM_UP_SECONDS:g} s; run for longer."
            )
        seconds = max(0.001, end - self._began) if self._began else 0.001
        return judge(
            self.recorder,
            STREAM_TARGETS if self.scenario == "stream" else TARGETS,
            seconds,
            check_rate=self.scenario == "targets",
            multiple=self.multiple,
        )


def add_arguments(parser: Any) -> None:
    """Add our options to Locust's."""
    parser.add_argument(
        "--scenario",
        choices=SCENARIOS,
        default="guide",
        env_var="GOBLIN_LOADTEST",
        include_in_web_ui=False,  # users are chosen before the page is served
        help="guide: the production guide's mix; targets: its rates, all at once; "
        "stream: time to first token",
    )
    parser.add_argument(
        "--multiple",
        type=multiple_of_rates,
        default=1.0,
        env_var="GOBLIN_LOADTEST_MULTIPLE",
        include_in_web_ui=False,
        help="targets: multiple of the rates",
    )
    parser.add_argument(
        "--account-email",
        default="",
        env_var="GOBLIN_LOADTEST_EMAIL",
        help="an existing account; empty: register one",
    )
    parser.add_argument(
        "--account-password",
        default="",
        env_var="GOBLIN_LOADTEST_PASSWORD",
        is_secret=True,
        help="its password",
    )
    parser.add_argument(
        "--verdict-json",
        default=str(LAST_VERDICT),
        env_var="GOBLIN_LOADTEST_JSON",
        include_in_web_ui=False,
        help="file for the verdict as JSON; doctor reads it. [default: %(default)s]",
    )


def install(environment: Environment) -> Session:
    """Connect a session to Locust. Ends the program if the verdict could not be written."""
    options = environment.parsed_options
    wanted = options.verdict_json if options is not None else ""
    if wanted and Path(wanted) != LAST_VERDICT and not Path(wanted).absolute().parent.is_dir():
        sys.exit(f"--verdict-json {wanted}: there is no such folder")
    session = Session(environment)
    session.choose()
    worker = isinstance(environment.runner, WorkerRunner)

    def on_request(
        name: str, response_time: float, exception: object, context: dict[str, Any], **_: Any
    ) -> None:
        session.note(name, response_time, exception, context)

    def on_test_start(**_: Any) -> None:
        session.begin()

    def on_test_stopping(**_: Any) -> None:
        session.end()

    def on_report_to_master(data: dict[str, Any], **_: Any) -> None:
        data["goblin_loadtest"] = {**session.recorder.take(), "obstacle": session.obstacle}

    def on_worker_report(data: dict[str, Any], **_: Any) -> None:
        message = data["goblin_loadtest"]
        session.recorder.add(message)
        if message["obstacle"] and not session.obstacle:
            session.give_up(message["obstacle"])

    def on_user_error(exception: BaseException, **_: Any) -> None:
        # A task did not catch this exception, so its request failed.
        session.note("exception in a task", 0.0, exception, {})

    def on_quitting(**_: Any) -> None:
        if not worker and environment.process_exit_code is None:
            environment.process_exit_code = session.verdict().exit_code

    def on_quit(**_: Any) -> None:
        # Not in `quitting`: Locust prints its own tables after it, and the verdict comes last.
        if not worker and (session.obstacle or session._began):
            _publish(session)

    environment.events.request.add_listener(on_request)
    environment.events.user_error.add_listener(on_user_error)
    environment.events.test_start.add_listener(on_test_start)
    environment.events.test_stopping.add_listener(on_test_stopping)
    environment.events.quitting.add_listener(on_quitting)
    environment.events.quit.add_listener(on_quit)
    if worker:
        environment.events.report_to_master.add_listener(on_report_to_master)
    if isinstance(environment.runner, MasterRunner):
        environment.events.worker_report.add_listener(on_worker_report)
    if environment.web_ui is None and not worker and environment.runner is not None:
        # Locust installs its own handler once a run has begun; with a schedule, not earlier.
        gevent.signal_handler(signal.SIGTERM, environment.runner.quit)
    if environment.web_ui is not None:
        _add_to_web_page(environment.web_ui, session)
    return session


def _publish(session: Session) -> None:
    verdict = session.verdict()
    print("\n" + as_text(verdict), flush=True)
    options = session.environment.parsed_options
    if options is None:
        return
    if options.verdict_json:
        _write_verdict(Path(options.verdict_json), session, verdict)
    report = Path(options.html_file) if options.html_file else None
    if report is not None and report.is_file():
        page = report.read_text(encoding="utf-8")
        report.write_text(page.replace("<body>", "<body>" + as_html(verdict), 1), encoding="utf-8")


def _write_verdict(path: Path, session: Session, verdict: Verdict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": session.environment.host or "",
        "scenario": session.scenario,
        "multiple": session.multiple,
    }
    path.write_text(json.dumps({**run, **as_json(verdict)}, indent=2) + "\n")


def as_html(verdict: Verdict) -> str:
    """The verdict as part of an HTML page."""
    head = "".join(f"<th>{html.escape(title)}</th>" for _, title in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cells(row)[key])}</td>" for key, _ in COLUMNS) + "</tr>"
        for row in verdict.rows
    )
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in verdict.notes)
    style = 'border="1" cellpadding="6" style="border-collapse: collapse"'
    table = f"<table {style}><tr>{head}</tr>{body}</table>"
    return (
        '<section style="font-family: sans-serif; padding: 1em 2em">'
        f"<h1>Verdict: {verdict.word}</h1>"
        + (f"<p>{heading(verdict)}.</p>{table}" if verdict.rows else "")
        + f"{notes}</section>"
    )


def _add_to_web_page(web_ui: Any, session: Session) -> None:
    """Add a tab to Locust's page, and the routes /verdict and /verdict.json.

    The request that fills the page's other tabs fills this one too.
    """
    web_ui.template_args["extended_tabs"] = [{"title": "Verdict", "key": "verdict"}]
    web_ui.template_args["extended_tables"] = [
        {"key": "verdict", "structure": [{"key": key, "title": title} for key, title in COLUMNS]}
    ]

    @web_ui.app.route("/verdict")
    @web_ui.auth_required_if_enabled
    def verdict_page() -> str:
        head = "<head><meta charset='utf-8'><title>Verdict</title></head>"
        body = f"<body>{as_html(session.verdict())}</body>"
        return f"<!DOCTYPE html><html lang='en'>{head}{body}</html>"

    @web_ui.app.route("/verdict.json")
    @web_ui.auth_required_if_enabled
    def verdict_json() -> dict[str, Any]:
        return as_json(session.verdict())

    @web_ui.app.after_request
    def add_rows(response: Response) -> Response:
        if request.path == "/stats/requests" and response.is_json:
            verdict = session.verdict()
            rows = [{"name": row.title, **cells(row)} for row in verdict.rows]
            # The page sorts by name. /verdict also has the reasons and what to do.
            rows.append(
                {"name": "~", "target": "Verdict (more at /verdict)", "result": verdict.word}
            )
            body = {**response.get_json(), "extended_stats": [{"key": "verdict", "data": rows}]}
            response.set_data(json.dumps(body))
        return response


def register() -> None:
    """Install the load test in Locust; called by locustfile.py."""
    events.init_command_line_parser.add_listener(lambda parser, **_: add_arguments(parser))
    events.init.add_listener(lambda environment, **_: install(environment))
