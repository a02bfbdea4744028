"""The commands spool list, spool export and spool drain."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from makers import refuse, refuse_everywhere, stored_call, stored_reports

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.database import Database
    from webapp.storage.reader import Reader
    from webapp.support.settings import Settings

from commands import ON_SQLITE, database_away, done, run, spooled


def test_what_waits_in_the_spool_is_listed_and_exported_without_a_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database_away(settings, monkeypatch):
        assert (done("spool", "list"), done("spool", "export")) == ("", "")
        assert run("spool", "list").stderr == "The spool is empty.\n"
        assert not settings.instance_dir.exists()
        first, second = spooled(settings, "ReferenceId=A&SendStatus=5&Price=450", "x=é")
        listed, exported = run("spool", "list"), done("spool", "export")

    assert [line.split("  ", 1)[1] for line in listed.stdout.splitlines()] == [
        f"{first.id}  a",
        f"{second.id}  unreadable: ReferenceId: is missing",
    ]
    assert listed.stderr == "2 in the spool\n"
    one, other = map(json.loads, exported.splitlines())
    assert one == {
        "id": str(first.id),
        "received_at": one["received_at"],
        "remote_addr": "203.0.113.7",
        "method": "POST",
        "content_type": "text/plain",
        "query": "ReferenceId=A&SendStatus=5&Price=450",
        "body": "\\xff",
        "reference_id": "a",
        "said": {"send_status": 5, "price": "450.0000"},
        "reason": None,
    }
    assert datetime.fromisoformat(one["received_at"]) == first.received_at
    assert one["received_at"].endswith("Z")
    assert (other["reference_id"], other["said"], other["reason"]) == (None, {}, "ReferenceId: is missing")
    assert other["query"] == "x=é"


@ON_SQLITE
def test_a_spool_of_more_than_is_read_at_once_is_shown_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.cli.spool._PORTION", 2)
    waiting = spooled(settings, *(f"ReferenceId={number}" for number in range(5)))

    assert [json.loads(line)["id"] for line in done("spool", "export").splitlines()] == [str(one.id) for one in waiting]
    assert len(done("spool", "list").splitlines()) == 5


def test_the_spool_is_drained_by_hand_while_no_server_runs(
    settings: Settings, database: Database, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done("spool", "drain") == "The spool is empty.\n"
    (readable, _) = spooled(settings, "ReferenceId=a&SendStatus=5", "x=1")
    with database_away(settings, monkeypatch):
        away = run("spool", "drain")
    assert (away.exit_code, away.stdout) == (4, "")
    assert "the-password" not in away.stderr

    assert done("spool", "drain") == "2 callbacks stored; the spool is empty.\n"
    assert done("spool", "drain") == "The spool is empty.\n"

    (report,) = stored_reports(database, "a")
    assert (report.id, report.received_at) == (readable.id, readable.received_at)
    assert json.loads(run("status", "--json").stdout)["rejected"] == 1
    assert reader.count() == 1


@pytest.mark.parametrize("how", [refuse, refuse_everywhere])
def test_a_drain_by_hand_names_what_a_trigger_rejects_and_ends(
    settings: Settings, database: Database, how: Callable[[Database, str], None]
) -> None:
    how(database, "poison")
    _, poison = spooled(settings, "ReferenceId=a", "ReferenceId=poison")

    refused = run("spool", "drain")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert re.search(rf"^{poison.id}: .*(not this one|malformed JSON|not.here)[^\n]*$", refused.stderr, re.MULTILINE)
    assert "Find what raises the errors" in refused.stderr
    assert "poison" in done("spool", "list")
    assert stored_call(database, "a").report_count == 1


@ON_SQLITE
def test_a_spool_that_cannot_be_used_is_named_with_exit_code_1(settings: Settings) -> None:
    (settings.instance_dir / "spool.db").mkdir(parents=True)

    for command in (["spool", "list"], ["spool", "export"], ["spool", "drain"], ["status"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "The spool cannot be used: " in result.stderr
        assert "Check INSTANCE_DIR, its disk and SPOOL_LIMIT." in result.stderr
