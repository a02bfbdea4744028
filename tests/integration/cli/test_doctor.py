"""The command doctor: green on a fresh install; each thing that is broken has its check, with a remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, SET, run
from doctoring import NAMES, contents, examined
from running import free_port, serving
from servers import open_folder

if TYPE_CHECKING:
    from webapp.storage.database import Database
    from webapp.support.settings import Settings


def test_nothing_is_wrong_on_a_fresh_install(fresh: Path) -> None:
    found = examined()

    assert (found.exit_code, found.of("failed")) == (0, set())
    assert found.checks["database"].result == "skipped"
    assert "`esms-calls serve` makes it" in found.checks["database"].words
    assert list(fresh.iterdir()) == []


def test_nothing_is_wrong_beside_a_server_and_after_it_and_nothing_is_written(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fresh / "log"
    with serving(log, "--workers", "1") as url:
        monkeypatch.setenv("PUBLIC_URL", url)
        before = contents(fresh / "instance")
        beside = examined()
        assert contents(fresh / "instance") == before
    monkeypatch.delenv("PUBLIC_URL")
    before = contents(fresh)
    after = examined()

    assert contents(fresh) == before
    for found in (beside, after):
        assert (found.exit_code, found.of("failed")) == (0, set())
        assert {"database", "encoding", "migration", "writes", "tokens", "folder", "modes"} <= found.of("ok")
    assert "is this server" in beside.checks["public URL"].words
    assert beside.checks["proxies"].result == "ok"
    assert "127.0.0.1" in log.read_text()


@ON_SQLITE
def test_people_see_each_check_with_its_remedy_and_each_setting_with_its_source(
    healthy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".env").write_text("SPOOL_LIMIT=2GiB\nESMS_SECRET_KEY=the-secret-key-of-mine\nSECRET=1\n")
    Path(".env").chmod(0o600)
    monkeypatch.setenv("ANSWER_WITHIN", "4s")
    monkeypatch.delenv("API_TOKEN")
    (healthy.instance_dir / "api_token").write_text("an-api-token-in-a-file")
    shown = run("doctor")

    lines = shown.stdout.splitlines()
    assert shown.exit_code == 1
    assert [line.split(maxsplit=1)[0] for line in lines if "eSMS keys  " in line] == ["failed"]
    assert any("-> " in line and "keys of your eSMS account" in line for line in lines)
    sources = {line.split()[0]: line.partition("[")[2].rstrip("]") for line in lines if line.endswith("]")}
    assert sources.keys() == set(NAMES)
    assert (sources["ANSWER_WITHIN"], sources["SPOOL_LIMIT"]) == ("environment", ".env")
    assert (sources["API_TOKEN"], sources["VERIFY"]) == ("generated file", "default")
    for secret in ("the-secret-key-of-mine", "an-api-token-in-a-file"):
        assert secret not in shown.output


def test_the_password_of_the_database_is_shown_nowhere(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://user:the-password@127.0.0.1:{free_port()}/calls")
    found = examined()
    values = {row["name"]: row["value"] for row in json.loads(run("doctor", "--json").stdout)["settings"]}

    assert found.checks["database"].result == "failed"
    assert "start PostgreSQL" in found.checks["database"].words
    assert values["DATABASE_URL"].endswith("/calls")
    assert "the-password" not in str(values)
    assert not (fresh / "instance").exists()


@SET
@pytest.mark.usefixtures("healthy")
def test_on_either_database_nothing_is_wrong_once_it_is_migrated(database: Database) -> None:
    found = examined()

    assert found.of("failed") == set()
    assert {"database", "encoding", "migration", "writes", "clock of the database", "time zone"} <= found.of("ok")
    assert database.name in found.checks["database"].words


@SET
def test_a_setting_that_is_invalid_stops_doctor_like_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOL_LIMIT", "much")
    shown = run("doctor")

    assert shown.exit_code == 2
    assert "SPOOL_LIMIT must be a size such as 500MiB or 1.5GiB" in shown.stderr


@pytest.mark.usefixtures("fresh")
def test_another_user_sees_all_that_it_may_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    run("doctor")  # It imports all that it needs, from folders that the other user may not enter.
    with open_folder() as folder:
        monkeypatch.chdir(folder)
        (folder / "instance").mkdir(mode=0o700)
        (folder / "instance" / "callback_token").write_text("a-token-of-the-server")
        os.seteuid(65534)
        try:
            shown = run("doctor", "--json")
        finally:
            os.seteuid(0)
    checks = {check["name"]: check for check in json.loads(shown.stdout)["checks"]}

    assert (shown.exit_code, shown.stderr) == (1, "")
    for name in ("folder", "database"):
        assert checks[name]["result"] == "failed"
        assert checks[name]["remedy"].startswith("run this as the server's user")
    assert checks["eSMS keys"]["result"] == "skipped"
