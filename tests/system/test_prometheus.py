"""A real Prometheus scrapes a real server with data: every query of the dashboard has an answer, and alerts fire."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from constants import CALLBACK_TOKEN
from reconciling import DAY, ON_SQLITE, Command, missing
from running import free_port, serving
from series import ALERTS, RULES, all_series
from until import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']}: {one['expr']}": one["expr"] for panel in PANELS for one in panel["targets"]}
FIRE_AT_ONCE = {"EsmsCallsGivenUp", "EsmsPriceConflicts", "EsmsValuesUnread"}
"""Alerts that wait for nothing, and have a cause in the data of this test."""


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def series(self, query: str) -> list[Any]:
        """What a query gives, as Grafana would send it, without what is no number."""
        expression = query.replace("$__rate_interval", "1m")
        found = self.ask("query", query=expression)["result"]
        return [one for one in found if not math.isnan(float(one["value"][1]))]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Debian's Prometheus with the rules of deploy/, which scrapes one receiver five times a second."""
    program = shutil.which("prometheus")
    if program is None and "CI" not in os.environ:
        pytest.skip("prometheus is not there (Debian: apt-get install prometheus)")
    often = {"scrape_interval": "200ms", "evaluation_interval": "200ms", "scrape_timeout": "200ms"}
    job = {"job_name": "esms-calls", "static_configs": [{"targets": [target]}]}
    (folder / "prometheus.yml").write_text(
        yaml.dump({"global": often, "rule_files": [str(ALERTS)], "scrape_configs": [job]})
    )
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "prometheus.log").open("w") as log,
        subprocess.Popen([program or "prometheus", *arguments], stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: _is_ready(address, process), 30, "Prometheus is ready")
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def _is_ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus ended"
    try:
        return requests.get(f"http://{address}/-/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def send_callbacks(server: str) -> None:
    """Callbacks of every kind: final, repeated, contradicting, with two prices, with wrong values, unreadable."""
    final = "SendStatus=5&CallStatus=ANSWERED"
    for query in (
        f"ReferenceId=a&{final}",
        "ReferenceId=a&SendStatus=5&CallStatus=NO+ANSWER",
        f"ReferenceId=b&{final}&Price=450",
        f"ReferenceId=b&{final}&Price=900",
        f"ReferenceId=c&{final}&CallDuration=long",
        "Ivr=1",
        "SMSID=zalo&TypeId=24&SendSuccess=1",
    ):
        requests.get(f"{server}/esms/callback/{CALLBACK_TOKEN}?{query}", timeout=30)
    requests.get(f"{server}/esms/callback/a-wrong-token-of-the-test?{final}", timeout=30)


def give_up(esms: Sandbox, database: Database, reconcile: Command) -> None:
    """Have calls given up, and others that are missing since long ago."""
    gone = missing(esms, database, 2, ago=5 * DAY)
    esms.faults = dict.fromkeys(gone, "104")
    reconcile()
    waiting = missing(esms, database, 2)
    esms.faults = dict.fromkeys(waiting, "104")
    missing(esms, database, 3)
    reconcile()
    missing(esms, database, 1)


@ON_SQLITE
def test_every_query_of_the_dashboard_has_an_answer_and_alerts_fire(
    esms: Sandbox, database: Database, reconcile: Command, tmp_path: Path
) -> None:
    with serving(tmp_path / "log", "--workers", "2") as server:
        send_callbacks(server)
        with prometheus(tmp_path, server.removeprefix("http://")) as found:
            until(lambda: found.series('up{job="esms-calls"} == 1'), 30, "the server is scraped")
            until(lambda: found.series("esms_lookup_seconds_count"), 30, "the database's figures are scraped")
            send_callbacks(server)
            give_up(esms, database, reconcile)
            unanswered = until_answered(found, QUERIES, 30)
            until(lambda: firing(found) >= FIRE_AT_ONCE, 30, "alerts fire")
            states = {rule["name"]: rule["health"] for group in found.ask("rules")["groups"] for rule in group["rules"]}
            begun = {series["metric"]["__name__"] for series in found.series('{__name__=~"esms_.+"}')}

    assert states == dict.fromkeys(RULES, "ok")
    assert begun <= all_series()
    assert unanswered == []


def until_answered(found: Prometheus, queries: dict[str, str], seconds: float) -> list[str]:
    """Ask until each has had an answer; those that have none in time."""
    deadline = time.monotonic() + seconds
    left = list(queries)
    while left and time.monotonic() < deadline:
        left = [name for name in left if not found.series(queries[name])]
        time.sleep(0.1)
    return left


def firing(found: Prometheus) -> set[str]:
    return {one["metric"]["alertname"] for one in found.series('ALERTS{alertstate="firing"}')}


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"\besms_\w+", " ".join(QUERIES.values())))
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert shown <= all_series()
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in all_series()} == bases


def test_panels_of_the_dashboard_are_whole() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all(target["expr"] for target in panel["targets"])
