"""The alerts of deploy/ are taken by Prometheus, fire when they should, and lead to their paragraphs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from series import ALERTS, RULES, all_series
from sqlalchemy import text

from webapp.cli.commands import cli

if TYPE_CHECKING:
    from webapp.storage.database import Database

ROOT = Path(__file__).parents[2]
UNIT_TESTS = ROOT / "deploy/alerts.test.yaml"
RUNBOOK = (ROOT / "docs/operations.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]


def promtool(*arguments: str) -> str:
    """What Debian's promtool says, which must be content."""
    tool = shutil.which("promtool")
    if tool is None and "CI" not in os.environ:
        pytest.skip("promtool is not there (Debian: apt-get install prometheus)")
    done = subprocess.run([tool or "promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint-fatal", str(ALERTS))


def test_the_unit_tests_of_the_alerts_hold() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(UNIT_TESTS))


def test_each_alert_is_tested_before_it_fires_and_after() -> None:
    moments: dict[str, list[bool]] = {}
    for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            moments.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))
    assert {name: set(fires) for name, fires in moments.items()} == {name: {False, True} for name in RULES}


def test_each_alert_has_its_paragraph_and_each_paragraph_its_alert() -> None:
    paragraphs = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)
    assert paragraphs == list(RULES), "in the same order"
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


@pytest.mark.parametrize("name", RULES)
def test_a_paragraph_says_the_cause_the_remedy_and_when_it_is_over(name: str) -> None:
    paragraph = RUNBOOK.split(f"### {name}\n")[1].split("\n### ")[0]

    parts = re.findall(r"^\*\*(Cause|Remedy|Over when)\*\*: \S", paragraph, re.MULTILINE)

    assert parts == ["Cause", "Remedy", "Over when"]


def commands() -> set[str]:
    """The commands of this program that paragraphs name, with their options."""
    spans = re.findall(r"`([^`]+)`", RUNBOOK)
    return {
        " ".join(span.split()) for span in spans if span.startswith("esms-calls ") and span != "esms-calls reconcile"
    }


@pytest.mark.parametrize("command", sorted(commands()))
def test_commands_of_the_paragraphs_are_there(command: str) -> None:
    _, *words = command.split()
    found: click.Command = cli
    with click.Context(cli) as context:
        while words and isinstance(found, click.Group):
            following = found.get_command(context, words.pop(0))
            assert following is not None, command
            found = following
    options = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_statements_of_the_paragraphs_run(database: Database) -> None:
    statements = [" ".join(found.split()) for found in re.findall(r"`(SELECT[^`]+)`", RUNBOOK)]
    assert len(statements) > 5
    with database.snapshot() as connection:
        for statement in statements:
            if "pg_stat_activity" not in statement or not database.is_sqlite:
                connection.execute(text(statement)).all()


def test_the_runbook_runs_commands_as_deployment_does() -> None:
    deployment = (ROOT / "docs/deployment.md").read_text()
    (by_hand,) = re.findall(r"^systemd-run .*$", RUNBOOK, re.MULTILINE)
    assert by_hand in deployment.splitlines()


def test_what_is_asked_from_outside_passes_the_proxies() -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    assert "curl -i PUBLIC_URL/esms/callback/`" in operations
    assert "PUBLIC_URL/healthz" not in operations, "the proxies answer it to inner networks alone"
    assert "location /esms/callback/ {" in (ROOT / "deploy/nginx.conf").read_text()
    assert "handle /esms/callback/* {" in (ROOT / "deploy/Caddyfile").read_text()


def test_alerts_and_paragraphs_name_series_that_are_there() -> None:
    named = set(re.findall(r"\besms_\w+", ALERTS.read_text() + UNIT_TESTS.read_text() + RUNBOOK))
    assert named - all_series() <= {metric.removesuffix("_count") for metric in all_series()}
    assert {name for rule in RULES.values() for name in re.findall(r"\besms_\w+", rule["expr"])} <= all_series()
