"""``make bench-queries``: how long the page, the API, ``report``, /metrics and the documented SQL take.

The program answers in this process, and the time of every statement that it executes is taken.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import requests
from click.testing import CliRunner
from sqlalchemy import create_engine, make_url, text

from bench.load import API_TOKEN, CALLBACK_TOKEN
from bench.programs import ROOT, THIS
from bench.setting import (
    DATABASES,
    conditions,
    databases_option,
    markdown_option,
    postgresql,
    quick_option,
    report,
    unless_given,
)
from bench.table import Outcome, Row, milliseconds
from bench.watch import Watch, watched
from bench.year import fill
from webapp.app import create_app
from webapp.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flask.testing import FlaskClient


QUICK = {"calls": 20_000, "runs": 2}
OF_A_FIGURE = {"postgresql": 0.3, "sqlite": 1.0}
"""Seconds, at most, of any one statement of page, API and ``report``."""
OF_THE_OVERVIEW = 0.5
OF_A_SCRAPE = 2.0
"""The first of a process; Prometheus waits for ten seconds."""
OF_A_SAMPLE = 1.0
OF_A_LIST = 0.05
_SEARCHED = {"outcome unknown", "a rare key"}
_REPORTS = {
    "report": "",
    "report of the largest campaign": "--campaign campaign-00",
    "report of 30 days": "--since {month}",
    **{f"report by {group}": f"--by {group}" for group in ("hour", "weekday", "day", "campaign", "key")},
}


@dataclass(frozen=True, slots=True)
class Question:
    """Something that is asked, and the limit of what is measured, in seconds; None: no limit."""

    name: str
    ask: Callable[[], object]
    measured: Callable[[Watch], float]
    limit: float | None


def slowest(watch: Watch) -> float:
    """The slowest statement."""
    return watch.slowest


def whole(watch: Watch) -> float:
    """The whole answer."""
    return watch.seconds


def documented() -> dict[str, str]:
    """The questions of docs/data.md, each with its statement."""
    section = (ROOT / "docs/data.md").read_text(encoding="utf-8").split("## Fifteen questions in SQL")[1]
    found = re.findall(r"\n\n([^\n]+(?:\n[^\n]+)*):\n\n```sql\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    return {" ".join(question.split()): statement for question, statement in found}


def api_questions(client: FlaskClient, database: str) -> Iterator[Question]:
    """Lists of the API: each filter, alone and deep in the year."""
    newest = _asked(client, "/api/calls?limit=1000")["calls"]
    known = {
        name: next(call[name] for call in newest if call[name]) for name in ("phone", "request_id", "reference_id")
    }
    middle = _months_ago(6)
    deep = _asked(client, f"/api/calls?until={middle}")["next"]
    queries = {
        "newest": "",
        "a deep page": f"cursor={deep}",
        "a month of spring": f"since={_months_ago(7)}&until={middle}",
        **{f"outcome {word}": f"outcome={word}" for word in ("answered", "other", "unknown", "given_up", "missing")},
        "a frequent key": "ivr=1",
        "a rare key": "ivr=%23",
        "CallStatus BUSY": "status=BUSY",
        "voice OTP": "kind=otp",
        "the largest campaign": "campaign=campaign-00",
        "a campaign of winter": "campaign=campaign-00-15",
        "missing": "missing=1",
        "in conflict": "conflict=1",
        "a phone": f"phone={known['phone']}",
        "a request id": f"request_id={known['request_id']}",
    }
    for name, query in queries.items():
        path = f"/api/calls?{query}"
        # What few calls have is looked for in all of them; the page stops such a search sooner.
        limit = OF_A_LIST if name not in _SEARCHED else OF_A_FIGURE[database]
        yield Question(f"API list: {name}", partial(_asked, client, path), slowest, limit)
    one = f"/api/calls/{known['reference_id']}"
    yield Question("API: one call", partial(_asked, client, one), slowest, OF_A_LIST)


def _asked(client: FlaskClient, path: str) -> Any:
    answer = client.get(path, headers={"Authorization": f"Bearer {API_TOKEN}"})
    if answer.status_code != requests.codes.ok:
        raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:500]}")
    return answer.json


def _months_ago(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time.time() - number * 30 * 86400))


def page_questions(client: FlaskClient, database: str) -> Iterator[Question]:
    """The overview of the page: the whole answer, and its slowest statement."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)
    signed_in = client.post("/sign-in", data={"token": API_TOKEN, "csrf_token": found[1] if found else ""})
    if signed_in.status_code != requests.codes.found:
        raise RuntimeError(f"signing in was answered {signed_in.status_code}")
    paths = {
        **{f"overview, {name}": f"/?range={name}" for name in ("today", "yesterday", "7", "30", "90", "365")},
        "overview, 365 days of the largest campaign": "/?range=365&campaign=campaign-00",
        "campaigns of 365 days as CSV": "/campaigns.csv?range=365",
    }
    for name, path in paths.items():
        get = partial(_page, client, path)
        yield Question(f"page: {name}, whole", get, whole, OF_THE_OVERVIEW)
        yield Question(f"page: {name}, slowest query", get, slowest, OF_A_FIGURE[database])
    for name, query in _LISTS.items():
        limit = OF_A_FIGURE[database] if name in _RARE else OF_A_LIST
        yield Question(f"page: list, {name}", partial(_page, client, f"/calls?{query}"), slowest, limit)


_LISTS = {
    "newest": "",
    "answered": "outcome=answered",
    "missing": "outcome=missing",
    "in conflict": "flag=conflict",
    "two prices": "flag=price_conflict",
    "never registered": "flag=unregistered",
    "recovered": "flag=recovered",
    "a key": "key=1",
    "one campaign": "campaign=campaign-00",
    "one campaign, answered": "campaign=campaign-00&outcome=answered",
    "a month": "range=30",
    "search, an id": "q=0000",
    "search, a phone number": "q=0901+2",
    "search, very many phone numbers": "q=%2B849",
    "search, very many, none of them new": "q=0901+2&range=all&key=%23",
    "a rare key": "key=%23",
    "outcome unknown": "outcome=unknown",
}
_RARE = {"a rare key", "outcome unknown"}
"""A page looks at 20,000 calls for them, and then says where to go on."""


def _page(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    if answer.status_code != requests.codes.ok:
        raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:500]}")


def monitoring_questions(client: FlaskClient) -> Iterator[Question]:
    """What Prometheus reads: from a process that has no sample yet, and again from one that has.

    Later samples are taken one by one, in a fiftieth of the time.
    """

    def scrape(of: FlaskClient) -> None:
        if (answer := of.get("/metrics")).status_code != requests.codes.ok:
            raise RuntimeError(f"/metrics was answered {answer.status_code}: {answer.text[:500]}")
        if "esms_settled_calls_last_day{" not in answer.text:
            raise RuntimeError("/metrics shows nothing of the database")

    def scrape_first() -> None:
        scrape(create_app().test_client())

    yield Question("/metrics, first, whole", scrape_first, whole, OF_A_SCRAPE)
    yield Question("/metrics, first, slowest query", scrape_first, slowest, OF_A_SAMPLE)
    yield Question("/metrics, again, whole", partial(scrape, client), whole, OF_A_LIST)


def report_questions(database: str) -> Iterator[Question]:
    """The command report."""
    for name, options in _REPORTS.items():
        arguments = ["report", *options.format(month=_months_ago(1)).split()]
        yield Question(name, partial(_run, arguments), slowest, OF_A_FIGURE[database])


def _run(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    if result.exit_code:
        raise RuntimeError(f"{arguments} ended with {result.exit_code}:\n{result.output[-500:]}") from result.exception


def documented_questions(database: str, url: str) -> Iterator[Question]:
    """The SQL of docs/data.md, as it is written there."""
    engine = create_engine(url)

    def ask(statement: str) -> None:
        with engine.connect() as connection:
            connection.execute(text(statement)).all()

    for number, (_, statement) in enumerate(documented().items(), 1):
        what = re.sub(r"\s+", " ", statement).removeprefix("SELECT ")[:60]
        name = f"documented {number}: {what}"
        # An exact median has to sort every answered call of its days.
        limit = None if "cume_dist" in statement else OF_A_FIGURE[database]
        yield Question(name, partial(ask, statement), whole, limit)


@contextmanager
def filled(folder: Path, database: str, server: str | None, calls: int) -> Iterator[tuple[str, dict[str, float]]]:
    """URL of a database with that many calls and their figures, and the seconds of what was done to make it.

    One that a run before has filled in this folder is used again.
    """
    name = f"bench_year_{calls}"
    if server is None:
        url = f"sqlite:///{folder / name}.db"
    else:
        url = make_url(server).set(database=name).render_as_string(hide_password=False)
    environment = {"DATABASE_URL": url, "API_TOKEN": API_TOKEN, "CALLBACK_TOKEN": CALLBACK_TOKEN}
    environment |= {"INSTANCE_DIR": str(folder / "instance"), "ESMS_API_KEY": "", "ESMS_SECRET_KEY": ""}
    os.environ.update(environment)
    done = folder / f"{database}-{calls}.filled"
    took: dict[str, float] = {}
    if done.exists():
        _esms_calls("migrate")
    else:
        _drop(folder, name, server)
        _esms_calls("migrate")
        began = time.monotonic()
        fill(url, calls, lambda step: report(f"filling {DATABASES[database]}: {step}"))
        report(f"filling {DATABASES[database]} took {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        _esms_calls("rollups", "rebuild")
        took["esms-calls rollups rebuild"] = time.monotonic() - began
        done.touch()
    yield url, took


def _drop(folder: Path, name: str, server: str | None) -> None:
    """Remove what an interrupted run has left; on PostgreSQL, make the empty database."""
    if server is None:
        for path in folder.glob(f"{name}.db*"):
            path.unlink()
        return
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()


def _esms_calls(*arguments: str) -> None:
    environment = os.environ | THIS.environment
    subprocess.run(THIS.command(*arguments), check=True, env=environment, stdout=subprocess.DEVNULL)


def ask(database: str, url: str, runs: int, only: str) -> Iterator[tuple[Row, str]]:
    """Ask every question once, and then some times more, which count; each row with its slowest statement."""
    client = create_app().test_client()
    questions = [
        *page_questions(client, database),
        *api_questions(client, database),
        *monitoring_questions(client),
        *report_questions(database),
        *documented_questions(database, url),
    ]
    for question in questions:
        if only not in question.name:
            continue
        found: list[float] = []
        for _ in range(runs + 1):
            with watched() as watch:
                question.ask()
            found.append(question.measured(watch))
        row = Row(
            name=question.name,
            database=DATABASES[database],
            above=found[1:],
            below=[question.limit or 1.0],
            show=milliseconds,
            limit=1.0 if question.limit else None,
            at_least=False,
        )
        statement = max(watch.statements, key=lambda each: each[2])[0] if watch.statements else ""
        report(f"{row.name}, {row.database}: {milliseconds(found[-1])} {row.verdict}")
        yield row, statement


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@databases_option
@click.option("--calls", default=10_000_000, type=click.IntRange(1000), show_default=True, help="Calls of the year.")
@click.option("--runs", default=5, type=click.IntRange(1), show_default=True, help="How often each is asked.")
@click.option("--only", default="", metavar="WORD", help="Only what has this word in its name.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    help="Folder in which the filled databases stay, for the next run.",
)
@click.option("--explain", is_flag=True, help="Print the statements that missed their limit.")
@quick_option
@markdown_option
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    databases: tuple[str, ...],
    only: str,
    keep: Path | None,
    explain: bool,
    quick: bool,
    markdown: Path | None,
    **given: int,
) -> None:
    """Measure every query of page, API, report, /metrics and documented SQL, with a year of calls in 200 campaigns.

    BENCH_DATABASE_URL names a PostgreSQL on which databases may be created (by default one that comes as a wheel);
    files go to TMPDIR, 15 GB for 10 million calls. Progress is on standard error. Exit code 1: a limit was missed.
    """
    if quick:
        given |= unless_given(context, QUICK)
    started = time.monotonic()
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="esms-calls-bench-") as folder:
        Path(folder).mkdir(exist_ok=True)
        outcome = _run_on(Path(folder), databases, given["calls"], given["runs"], only, explain=explain)
    minutes = math.ceil((time.monotonic() - started) / 60)
    outcome.notes.append(f"{given['calls']:,} calls, medians of {given['runs']} runs; {minutes} minutes in all.")
    outcome.print()
    if markdown:
        markdown.write_text(outcome.markdown())
    sys.exit(not outcome.good and not quick)


def _run_on(folder: Path, databases: Sequence[str], calls: int, runs: int, only: str, *, explain: bool) -> Outcome:
    outcome = Outcome()
    with postgresql(folder) if "postgresql" in databases else nullcontext() as server:
        outcome.notes += conditions(server, folder)
        for database in databases:
            of_it = server if database == "postgresql" else None
            with filled(folder, database, of_it, calls) as (url, took):
                outcome.notes += [
                    f"{what} on {DATABASES[database]}: {seconds:,.0f} s" for what, seconds in took.items()
                ]
                for row, statement in ask(database, url, runs, only):
                    outcome.rows.append(row)
                    if explain and row.verdict == "MISSED":
                        outcome.plans[f"{row.name}, {row.database}"] = statement
    return outcome


if __name__ == "__main__":
    main()
