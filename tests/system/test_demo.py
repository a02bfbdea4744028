"""The demo: a fortnight that answers the fifteen questions, by SQL and by the report alike; and `make demo` itself."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
from click.testing import CliRunner
from commands import done
from constants import API_TOKEN, CALLBACK_TOKEN
from fortnights import loaded
from pages import sign_in
from questions import ANSWERS, MISSING, PHONE, STORY, by, effects, expected, questions, rows, simple, sorted_rows
from recount import HANOI, Fact, class_of, facts_of
from running import free_port
from sqlalchemy import func, select

from demo.fortnight import CAMPAIGNS, DAYS, fortnight
from demo.serve import PAGE_TOKEN, main
from webapp import create_app
from webapp.calls.facts import TALK_EDGES
from webapp.calls.report import EFFECTS
from webapp.storage.models import reconcile_runs, rejected_callbacks, status_reports
from webapp.storage.writer import Writer
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from webapp.storage.database import Database

ROOT = Path(__file__).parents[2]
SHARE = 0.15


class Demo(NamedTuple):
    """A loaded fortnight, and its calls as Python counts them."""

    database: Database
    facts: list[Fact]

    def sql(self, question: str) -> list[tuple[Any, ...]]:
        return rows(self.database, questions()[question])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    database = loaded(tmp_path_factory.mktemp("demo"), SHARE)
    yield Demo(database, facts_of(database))
    database.close()


@pytest.fixture
def report(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `esms-calls report --json` prints."""
    monkeypatch.setenv("DATABASE_URL", demo.database.url.render_as_string(hide_password=False))
    return lambda *options: json.loads(done("report", "--json", *options))


# The fifteen questions


def test_each_documented_statement_has_an_answer_equal_to_a_recount(demo: Demo) -> None:
    for question in questions().keys() - {MISSING}:
        found = demo.sql(question)
        assert found, question
        assert sorted_rows(found) == sorted_rows(expected(ANSWERS[question](demo.facts, demo.database))), question
    missing = Counter(fact.call.campaign for fact in demo.facts if fact.outcome == "missing")
    assert {campaign: int(number) for campaign, number, _ in demo.sql(MISSING)} == missing


@pytest.mark.parametrize(
    ("group", "question"),
    [
        ("hour", "Answered share by local hour"),
        ("weekday", "By weekday (1 is Monday)"),
        ("day", "By day"),
        ("campaign", "By campaign"),
    ],
)
def test_the_report_has_the_same_shares_as_sql(demo: Demo, report: Any, group: str, question: str) -> None:
    printed = [(one[group], one["calls"], one["answered_share"]) for one in report("--by", group)["groups"]]
    assert sorted_rows(expected(printed)) == sorted_rows(demo.sql(question))


def test_the_report_has_the_same_keys_costs_and_times_as_sql(demo: Demo, report: Any) -> None:
    whole = report()
    keys = [(one["key"], one["calls"]) for one in report("--by", "key")["groups"]]
    campaigns = report("--by", "campaign")["groups"]
    costs = [(one["campaign"], float(one["price_vnd"]), one["unpriced"]) for one in campaigns]
    each = [(one["campaign"], one["answered_call_vnd"] and float(one["answered_call_vnd"])) for one in campaigns]
    (_, costs_question) = [name for name in questions() if name.startswith(("What an", "What a campaign"))][::-1]
    ((mean, median, p95),) = demo.sql("Mean, median and 95th percentile of talk time, in seconds")
    ((now, _),) = demo.sql("How many calls callbacks disagree about now, and ever did")
    ((recovered,),) = demo.sql("Of the settled calls, the share whose callback was lost and that a look-up recovered")

    assert sorted_rows(expected(keys)) == sorted_rows(demo.sql("Which keys were pressed"))
    assert sorted_rows(expected(costs)) == sorted_rows(demo.sql(costs_question))
    assert sorted_rows(expected(each)) == sorted_rows(
        (campaign, vnd and simple(round(float(vnd), 4)))
        for campaign, vnd in demo.sql("What an answered call cost, voice OTP left out")
    )
    assert simple(whole["mean_talk_seconds"]) == mean
    assert whole["talk_seconds"]["p50"] == class_of(int(median), TALK_EDGES)
    assert whole["talk_seconds"]["p95"] == class_of(int(p95), TALK_EDGES)
    assert simple(whole["conflicts"]) == now
    settled = sum(fact.call.settled for fact in demo.facts)
    assert simple(whole["recovered"] / settled) == recovered
    assert whole["outcomes"]["missing"] == sum(int(number) for _, number, _ in demo.sql(MISSING))


def test_the_report_has_the_same_callback_delays_as_sql(demo: Demo, report: Any) -> None:
    delays = demo.sql("How long callbacks take, in seconds (upper edges of classes)")
    assert len(delays) > DAYS * 3
    for day, campaign, _, *edges in delays[:: len(delays) // 5]:
        options = ("--campaign", campaign) if campaign else ()
        if campaign:
            of_day = report(
                "--since", day, "--until", f"{datetime.fromisoformat(day) + timedelta(days=1):%Y-%m-%d}", *options
            )
            assert [simple(of_day["callback_seconds"][name]) for name in ("p50", "p95", "p99")] == edges


@pytest.fixture
def look(demo: Demo, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Reads the overview of a range of days."""
    settings = Settings(
        instance_dir=tmp_path,
        database_url=demo.database.url.render_as_string(hide_password=False),
        callback_token=(CALLBACK_TOKEN,),
        api_token=(API_TOKEN,),
    )
    app = create_app(settings)
    client = app.test_client()
    sign_in(client)
    yield lambda days: client.get(f"/?range={days}&lang=en").text
    for name in ("token_counter", "database", "ingest"):
        app.extensions[name].close()


def test_the_page_has_the_same_figures_as_the_report(report: Any, look: Callable[[str], str]) -> None:
    overview = look("30")
    tiles = {name: re.sub("<[^>]*>", "", text) for name, text in re.findall(r'data-tile="(\w+)">(.*?)</p>', overview)}
    whole = report()

    for name in ("calls", "recovered", "conflicts", "unregistered"):
        assert tiles[name] == f"{whole[name]:,}"
    assert tiles["missing"] == f"{whole['outcomes']['missing']:,}"
    assert tiles["share"] == f"{whole['answered_share']:.1%}"
    assert tiles["talk"] == f"≈ {whole['talk_seconds']['p50']} s"
    assert tiles["cost"].split()[0] == f"{float(whole['price_vnd']):,.0f}"
    for one in report("--by", "campaign")["groups"]:
        if one["campaign"]:
            row = re.search(f">{one['campaign']}</a></th>(.*?)</tr>", overview, re.DOTALL)
            assert row
            assert f">{one['calls']:,}</td>" in row[1]
            assert f">{float(one['price_vnd']):,.0f}</td>" in row[1]


def test_the_page_compares_yesterday_with_the_day_before_as_sql_does(demo: Demo, look: Callable[[str], str]) -> None:
    (_, before, _), (_, calls, _) = sorted(demo.sql("Yesterday against the day before"))
    overview = look("yesterday")
    assert f'data-tile="calls">{int(calls):,}</p>' in overview
    assert f"against {int(before):,} on the day before" in overview


def test_the_page_answers_by_hour_and_day_as_the_report_does(report: Any, look: Callable[[str], str]) -> None:
    overview = look("30")
    text = html.unescape(re.sub(r"<[^>]*>", "", overview))
    whole = report()
    assert f"{whole['conflicts_ever']:,} ever, of all calls" in text
    assert f"{whole['recovered_share']:.1%} of the settled calls" in text
    assert f"mean {whole['mean_talk_seconds']:.1f} s · " in text
    assert f", 95% within ≈ {whole['talk_seconds']['p95']} s" in text
    every_hour = overview.partition('class="heat')[2].partition("</table>")[0].rpartition("<tr>")[2]
    shares = [one["answered_share"] for one in report("--by", "hour")["groups"] if one["answered_share"] is not None]
    assert [*map(int, re.findall(r">(\d+)</td>", every_hour))][:-1] == [round(100 * share) for share in shares]
    for one in report("--by", "day")["groups"]:
        day = f"{datetime.fromisoformat(one['day']):%-d %b %Y}"
        assert (
            f'{day}</a></th><td class="n">{one["calls"]:,}</td><td class="n">{one["answered_share"]:.1%}<' in overview
        )


def test_the_document_says_where_each_of_the_fifteen_questions_is_answered() -> None:
    rows_of_document = re.findall(r"^\| ([^|`]+) \| ", (ROOT / "docs/demo.md").read_text(), re.MULTILINE)
    assert rows_of_document[2:] == [question.partition(". Mostly")[0] for question in questions()]


# A believable fortnight


def test_it_has_everything_that_a_newcomer_looks_for(demo: Demo) -> None:
    outcomes = Counter(fact.outcome for fact in demo.facts)
    with demo.database.snapshot() as connection:
        done_effects = set(connection.scalars(select(status_reports.c.effect).distinct()))
        reasons = {reason.partition(":")[0] for reason in connection.scalars(select(rejected_callbacks.c.reason))}
        runs = connection.scalar(select(func.sum(reconcile_runs.c.settled)))

    assert {fact.call.campaign for fact in demo.facts} == {campaign.name for campaign in CAMPAIGNS}
    assert len({fact.day for fact in demo.facts}) >= DAYS
    assert outcomes.keys() >= {"answered", "unanswered", "delivered", "rejected", "missing", "given_up"}
    assert done_effects >= {*EFFECTS} - {"confirmed"}
    assert reasons == {"other channel", "ReferenceId"}
    assert runs == sum(fact.call.confirmed_at is not None for fact in demo.facts)
    for one in ("price_conflict", "conflict"):
        assert 1 <= sum(getattr(fact.call, one) for fact in demo.facts) <= 3, one
    assert sum(fact.call.registered_at is None for fact in demo.facts)
    assert sum(fact.recovered and fact.call.price is None for fact in demo.facts)
    assert {"conflict", "corrected", "stale", "duplicate"} <= {*effects(demo.database, STORY)}
    assert len(demo.sql("All calls to one phone")) >= 2
    assert PHONE.startswith("+84")


def test_calls_are_placed_in_business_hours_and_more_on_working_days(demo: Demo) -> None:
    usual = [fact for fact in demo.facts if fact.call.kind == "voice"]
    by_day = {day: len(some) for day, some in by(usual, lambda fact: fact.day)}
    weekend = [number for day, number in by_day.items() if day.weekday() >= 5]
    working = sorted(by_day[day] for day in by_day if day.weekday() < 5)

    assert all(time(8) <= fact.at.time() < time(21) for fact in usual)
    assert max(weekend) < working[len(working) // 2]


def test_every_call_is_the_fold_of_its_history(demo: Demo) -> None:
    ids = [fact.call.reference_id for fact in demo.facts]
    assert Writer(demo.database).refold(ids, datetime.now(UTC), check_only=True) == []


@pytest.mark.parametrize("day", range(23, 30))
def test_it_is_the_same_each_time_and_whole_on_each_day_of_the_week(day: int) -> None:
    now = datetime(2026, 11, day, 0, 5, tzinfo=HANOI)
    made = fortnight(now, HANOI, share=SHARE)

    assert made == fortnight(now, HANOI, share=SHARE)
    assert {*made.faults.values()} == {"105", "not-final", "nothing-said"}
    assert max(made.registered[-1].at, made.callbacks[-1].at) <= now


# `make demo`


@contextmanager
def running_demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "demo",
        "--folder",
        str(folder),
        "--share",
        "0.02",
        "--sandbox-port",
        "0",
        *options,
    ]
    demo = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield demo
    finally:
        demo.kill()
        demo.communicate()


def refusal(*options: object) -> str:
    """What the demo says when it does not start."""
    result = CliRunner().invoke(main, [f"{option}" for option in options])
    assert result.exit_code == 1
    return result.output


def until_ready(demo: subprocess.Popen[str]) -> str:
    """What it prints until it invites to look."""
    assert demo.stdout
    printed = ""
    for line in demo.stdout:
        printed += line
        if "Ctrl-C ends the demo" in line:
            return printed
    raise AssertionError(printed)


def ended(demo: subprocess.Popen[str]) -> tuple[int, str]:
    demo.send_signal(signal.SIGINT)
    printed, _ = demo.communicate(timeout=20)
    return demo.returncode, printed


def test_the_demo_serves_can_be_run_again_and_ends_by_ctrl_c_without_a_traceback(tmp_path: Path) -> None:
    folder, port = tmp_path / "demo", free_port()
    with running_demo(folder, "--port", str(port)) as demo:
        assert demo.stdout
        demo.stdout.readline()
        code, printed = ended(demo)
        assert (code, "Traceback" in printed) == (0, False)
    with running_demo(folder, "--port", str(port)) as demo:
        printed = until_ready(demo)
        assert f"http://127.0.0.1:{port}/" in printed
        assert PAGE_TOKEN in printed
        counted = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        assert re.search(r'esms_callbacks_total\{result="settled"\} [1-9]', counted), "by HTTP, from the sandbox"
        start = requests.get(f"http://127.0.0.1:{port}/", timeout=5)
        for link, kind in re.findall(r'href="(/static/[^"]+\.(css|svg)[^"]*)"', start.text):
            file = requests.get(f"http://127.0.0.1:{port}{link}", timeout=5)
            assert (file.status_code, kind in file.headers["Content-Type"], bool(file.content)) == (200, True, True)
        assert "/static/page.css" in start.text
        assert "Another demo uses" in refusal("--folder", folder, "--port", free_port())
        assert "choose another by DEMO='--port" in refusal("--folder", tmp_path / "other", "--port", port)
        assert ended(demo) == (0, "")


def test_the_demo_touches_no_folder_of_another(tmp_path: Path) -> None:
    file = tmp_path / "kept.txt"
    file.write_text("mine")
    assert "not the demo's" in refusal("--folder", tmp_path, "--port", free_port())
    assert (file.read_text(), [*tmp_path.iterdir()]) == ("mine", [file])
