"""The gauges of /metrics say what ``status`` says, by closed label values, and stay cheap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from constants import API_TOKEN, CALLBACK_TOKEN
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url, text

from webapp.callbacks.reasons import REASONS
from webapp.cli.commands import cli
from webapp.esms.parameters import KNOWN_PARAMETERS
from webapp.storage import rollups
from webapp.storage.errors import Unavailable
from webapp.support import metrics
from webapp.web import gauges

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
URL = f"/esms/callback/{CALLBACK_TOKEN}"
FINAL = "SendStatus=5&CallStatus=ANSWERED"


@pytest.fixture
def always_fresh(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are taken for each scrape."""
    monkeypatch.setattr(gauges, "_SHORTEST_SECONDS", 0.0)
    for sampler in vars(app.extensions["gauges"]).values():
        if isinstance(sampler, gauges.Sampler):
            monkeypatch.setattr(sampler, "_pace", gauges.Pace(0, 0.0))


def shown(client: FlaskClient) -> dict[str, float]:
    """Every sample of /metrics, by its name and label values: ``esms_missing_calls yes``."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def register(client: FlaskClient, *names: str, hours_ago: float = 1) -> None:
    placed_at = (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat()
    items = [{"reference_id": name, "placed_at": placed_at} for name in names]
    answer = client.post("/api/calls", json=items, headers={"Authorization": f"Bearer {API_TOKEN}"})
    assert answer.status_code == 201


def test_gauges_agree_with_status(client: FlaskClient, database: Database) -> None:
    register(client, "a", "b")
    for query in (
        f"ReferenceId=c&{FINAL}&Price=450",
        f"ReferenceId=c&{FINAL}&Price=900",
        f"ReferenceId=d&{FINAL}",
        "ReferenceId=d&SendStatus=5&CallStatus=NO+ANSWER",
        "ReferenceId=e&SendStatus=2&Price=many&amp;Ivr=1",
        "Ivr=1",
        "SMSID=zalo&TypeId=24&SendSuccess=1",
    ):
        client.get(f"{URL}?{query}")
    client.get("/esms/callback/another-token-of-sixteen?ReferenceId=x")
    rollups.refresh(database)

    found = shown(client)
    status = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)

    assert (found["esms_missing_calls yes"], found["esms_missing_calls no"]) == (2, 1)
    assert status["missing"] == 3
    assert found["esms_overdue_calls"] == status["overdue"] == 2
    assert found["esms_conflict_calls no"] == status["conflicts"] == 1
    assert found["esms_price_conflict_calls no"] == status["price_conflicts"] == 1
    assert found["esms_rejected_callbacks no-identity"] == status["rejected"] == 1
    assert found["esms_other_channel_messages"] == status["other_channels"] == 1
    assert found["esms_unread_reports_last_day Price"] == status["unread_last_day"]["Price"] == 1
    assert found["esms_recently_settled_calls callback day"] == status["settled"] == 2
    assert found["esms_lookup_share_ratio hour"] == found["esms_lookup_share_ratio day"] == 0
    by_outcome = [found[f"esms_calls {outcome}"] for outcome in ("answered", "unanswered", "missing")]
    assert by_outcome == [1, 1, 3]
    assert status["calls"] == 5
    assert found["esms_settled_calls_last_day answered"] == 1
    for name, at in (
        ("esms_oldest_missing_call_timestamp_seconds", status["oldest_missing"]),
        ("esms_last_callback_timestamp_seconds", status["last_callback_at"]),
    ):
        assert found[name] == pytest.approx(datetime.fromisoformat(at).timestamp(), abs=0.001)
    assert found["esms_database_up"] == 1
    assert found["esms_database_breaker_open"] == 0


@ON_SQLITE
@pytest.mark.usefixtures("always_fresh")
def test_each_reason_of_a_rejected_callback_has_its_class(client: FlaskClient) -> None:
    """Also those that a later version adds: the class other is for none that this version says."""
    many = "&".join(f"n{number}=1" for number in range(1001))
    json_type = {"content_type": "application/json"}
    before = shown(client)
    client.get(f"{URL}?Ivr=1")
    client.get(f"{URL}?ReferenceId=%00")
    client.get(f"{URL}?ReferenceId=a&ReferenceId=b")
    client.post(URL, data=b"x" * 70_000)
    client.post(URL, data=many)
    client.post(URL, data="{", **json_type)
    client.post(URL, data="[1]", **json_type)
    client.post(URL, data=b"no form", content_type="multipart/form-data; boundary=x")
    client.post(URL, data='{"a":' * 5000 + "1" + "}" * 5000, **json_type)

    after = shown(client)

    more = {
        name
        for name in REASONS
        if after.get(f"esms_rejections_total {name}", 0) > before.get(f"esms_rejections_total {name}", 0)
    }
    expected = set(REASONS) - {"not-whole", "database", "other"}
    assert more == expected
    assert {name for name in REASONS if after[f"esms_rejected_callbacks {name}"]} == expected


@ON_SQLITE
def test_label_values_are_closed_whatever_is_sent(client: FlaskClient) -> None:
    for number in range(3):
        forged = quote(f"forged-{number}")
        client.get(f"{URL}?ReferenceId=a&{forged}={forged}")
        client.get(f"{URL}?SMSID={forged}&TypeId={forged}")
        client.get(f"{URL}?{forged}={forged}")

    found = shown(client)

    assert not [name for name in found if "forged" in name]
    labels = {name.split()[1] for name in found if name.startswith("esms_unread_reports_last_day ")}
    assert labels == {*KNOWN_PARAMETERS, "other"}
    assert found["esms_unread_reports_last_day other"] == 3


@ON_SQLITE
def test_batches_are_counted_with_their_sizes_and_times(client: FlaskClient) -> None:
    before = shown(client)
    client.get(f"{URL}?ReferenceId=a&{FINAL}")
    client.get(f"{URL}?ReferenceId=b&{FINAL}")
    after = shown(client)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("esms_batch_reports_sum") == more("esms_batch_reports_count") == 2
    assert more("esms_batch_seconds_count") == more("esms_batch_commit_seconds_count") == 2
    assert 0 < more("esms_batch_commit_seconds_sum") < more("esms_batch_seconds_sum")


@ON_SQLITE
@pytest.mark.usefixtures("always_fresh")
def test_while_the_database_is_away_the_spool_and_the_breaker_are_shown(
    client: FlaskClient, settings: Settings
) -> None:
    client.get(f"{URL}?ReferenceId=a&{FINAL}")
    path = Path(str(make_url(settings.database).database))
    path.rename(f"{path}.away")
    path.mkdir()
    client.get(f"{URL}?ReferenceId=b&{FINAL}")

    found = shown(client)

    assert (found["esms_database_up"], found["esms_database_breaker_open"]) == (0, 1)
    assert found["esms_spool_reports"] == 1
    assert 0 < found["esms_spool_bytes"] < found["esms_spool_limit_bytes"]
    assert 0 <= found["esms_spool_oldest_seconds"] < 60
    assert "esms_overdue_calls" not in found


def test_the_breaker_is_open_while_it_is_in_any_worker_that_lives(tmp_path: Path) -> None:
    program = """
import sys
from prometheus_client import multiprocess
from webapp.callbacks.circuit_breaker import CircuitBreaker
from webapp.support import metrics
breaker = CircuitBreaker(can_open=True)
for line in sys.stdin:
    match line.split():
        case ["open"]: breaker.open("away")
        case ["close"]: breaker.close()
        case ["died", pid]: multiprocess.mark_process_dead(int(pid))
    print(metrics.exposition().decode().split("\\nesms_database_breaker_open ")[1].split()[0], flush=True)
"""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    arguments: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with (
        subprocess.Popen([sys.executable, "-c", program], **arguments) as first,
        subprocess.Popen([sys.executable, "-c", program], **arguments) as second,
    ):

        def say(process: subprocess.Popen[str], line: str) -> float:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        assert say(first, "look") == say(second, "look") == 0
        assert say(second, "open") == say(first, "look") == 1
        assert say(second, "close") == say(first, "look") == 0
        assert say(second, "open") == 1
        second.kill()
        second.wait()
        assert say(first, "look") == 1, "nobody has seen its end yet"
        assert say(first, f"died {second.pid}") == 0
        first.kill()


def test_a_sample_holds_for_a_second_and_longer_if_it_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    taken: list[float] = []

    def read() -> float:
        nonlocal clock
        taken.append(clock)
        clock += cost
        return clock

    monkeypatch.setattr("webapp.web.gauges.time.monotonic", lambda: clock)
    sampler = gauges.Sampler(read)
    for cost, seconds in ((0.001, 10), (0.1, 20), (5.0, 200)):
        taken.clear()
        for _ in range(seconds * 10):
            sampler.latest()
            clock += 0.1
        assert len(taken) * max(1.1, min(60.1, cost * 50)) <= seconds + 62


def test_a_sample_that_fails_is_tried_again_a_second_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    away = True

    def read() -> str:
        nonlocal clock
        clock += 3
        if away:
            raise Unavailable("away")
        return "here"

    monkeypatch.setattr("webapp.web.gauges.time.monotonic", lambda: clock)
    sampler = gauges.Sampler(read)
    assert sampler.latest() is None
    away = False
    assert sampler.latest() is None
    clock += 1
    assert sampler.latest() == "here"


def test_every_metric_is_documented_once() -> None:
    names = [gauge.name for gauge in (*gauges.OF_THE_SPOOL, *gauges.OF_NOW, *gauges.OF_LATELY)]
    counted = [family.name for metric in metrics.COUNTED for family in metric.describe()]
    assert len({*names, *counted}) == len(names) + len(counted)
    defined = [
        value.name
        for value in vars(gauges).values()
        if isinstance(value, metrics.SampledGauge | metrics.SampledHistogram)
    ]
    assert sorted(defined) == sorted(names)
    assert {id(one) for one in vars(metrics).values() if isinstance(one, Counter | Gauge | Histogram)} == {
        id(one) for one in metrics.COUNTED
    }


@ON_SQLITE
@pytest.mark.usefixtures("always_fresh")
def test_a_database_at_an_older_migration_is_shown_as_not_readable(client: FlaskClient, database: Database) -> None:
    assert shown(client)["esms_database_up"] == 1
    with database.transaction() as connection:
        connection.execute(text("DROP TABLE lookup_latencies"))

    assert shown(client)["esms_database_up"] == 0
