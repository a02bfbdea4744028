"""The command rotate-token: both tokens are accepted between its two steps, and none that is in use is removed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, done, run
from constants import CALLBACK_TOKEN
from sql import write

from webapp.storage import token_counts
from webapp.storage.token_counts import HourCount
from webapp.support import tokens
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from click.testing import Result

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

pytestmark = ON_SQLITE


@pytest.fixture
def kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The instance folder of a server whose tokens are kept there."""
    for name in ("CALLBACK_TOKEN", "API_TOKEN"):
        monkeypatch.delenv(name)
    load_settings().make_tokens()
    return settings.instance_dir


def came_with(database: Database, token: str, *, hours_ago: float = 1, number: int = 12) -> None:
    """Store that callbacks came with the token."""
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    counts = [HourCount(at.replace(minute=0, second=0, microsecond=0), number, at, tokens.ending(token))]
    write(database, lambda connection: token_counts.add(connection, counts, datetime.now(UTC)))


def shown(*results: Result) -> str:
    return "".join(one.stdout + one.stderr for one in results)


def test_the_new_token_comes_first_and_its_url_is_printed_once(kept: Path) -> None:
    (old,) = load_settings().callback_tokens()
    printed = run("rotate-token", "callback")

    new, *others = load_settings().callback_tokens()
    assert printed.exit_code == 0
    assert others == [old]
    assert len(new) == 43
    assert (kept / "callback_token").stat().st_mode & 0o777 == 0o600
    assert shown(printed).count(new) == 1
    assert f"/esms/callback/{new}?ReferenceId=" in printed.stdout
    assert old not in shown(printed)
    assert f"…{old[-4:]}, is still accepted" in printed.stdout
    assert "esms-calls rotate-token callback --finish" in printed.stdout
    assert "PUBLIC_URL" in printed.stderr
    assert new in done("callback-url")


def test_a_second_change_waits_for_the_end_of_the_first(kept: Path) -> None:
    done("rotate-token", "callback")
    before = (kept / "callback_token").read_text()
    again = run("rotate-token", "callback")

    assert again.exit_code == 1
    assert "--finish" in again.stderr
    assert "--undo" in again.stderr
    assert (kept / "callback_token").read_text() == before
    assert not any(token in shown(again) for token in before.split())


@pytest.mark.usefixtures("kept")
def test_the_old_token_is_removed_once_nothing_came_with_it_for_a_day(database: Database) -> None:
    (old,) = load_settings().callback_tokens()
    came_with(database, old, hours_ago=30)
    done("rotate-token", "callback")
    new = load_settings().callback_tokens()[0]
    came_with(database, new)

    assert f"Removed: …{old[-4:]}" in done("rotate-token", "callback", "--finish")
    assert load_settings().callback_tokens() == (new,)
    assert "Nothing to do" in done("rotate-token", "callback", "--finish")


@pytest.mark.usefixtures("kept")
def test_a_token_in_use_is_removed_by_force_alone(database: Database) -> None:
    (old,) = load_settings().callback_tokens()
    done("rotate-token", "callback")
    came_with(database, old)
    refused = run("rotate-token", "callback", "--finish")

    assert refused.exit_code == 1
    assert f"12 callbacks of the last 24 hours came with …{old[-4:]}" in refused.stderr
    assert "--force" in refused.stderr
    assert len(load_settings().callback_tokens()) == 2
    done("rotate-token", "callback", "--finish", "--force")
    assert old not in load_settings().callback_tokens()


@pytest.mark.usefixtures("kept")
def test_a_change_is_undone_while_nothing_came_with_the_new_token(database: Database) -> None:
    before = load_settings().callback_tokens()
    done("rotate-token", "callback")
    done("rotate-token", "callback", "--undo")
    assert load_settings().callback_tokens() == before

    done("rotate-token", "callback")
    came_with(database, load_settings().callback_tokens()[0])
    assert run("rotate-token", "callback", "--undo").exit_code == 1
    assert run("rotate-token", "callback", "--undo", "--finish").exit_code == 2


def test_the_api_token_is_changed_without_being_shown(kept: Path) -> None:
    (old,) = load_settings().api_tokens()
    printed = run("rotate-token", "api")
    new = load_settings().api_tokens()[0]

    assert load_settings().api_tokens() == (new, old)
    assert str(kept / "api_token") in printed.stdout
    assert not {new, old} & set(re.findall(r"[\w.~-]{16,}", shown(printed)))
    done("rotate-token", "api", "--finish")
    assert load_settings().api_tokens() == (new,)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("options", [[], ["--finish"], ["--undo"]])
def test_a_token_of_the_environment_is_changed_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    monkeypatch.setenv("CALLBACK_TOKEN", f"{CALLBACK_TOKEN},the-older-token-of-the-tests")
    printed = run("rotate-token", "callback", *options)

    assert printed.exit_code == 1
    assert "CALLBACK_TOKEN is set in the environment" in printed.stdout
    assert "restart all servers" in printed.stdout
    assert bool(re.search(r"^  [\w-]{43},$", printed.stdout, re.MULTILINE)) is not bool(options)
    assert CALLBACK_TOKEN not in shown(printed)
    assert not (tmp_path / "instance").exists()


@pytest.mark.usefixtures("kept")
def test_a_token_of_the_env_file_is_changed_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLBACK_TOKEN=the-token-of-the-env-file\n")

    assert f"is set in {tmp_path / '.env'}" in run("rotate-token", "callback").stdout


@pytest.mark.usefixtures("settings")
def test_without_a_server_there_is_no_token_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALLBACK_TOKEN")

    missing = run("rotate-token", "callback")
    assert missing.exit_code == 2
    assert "CALLBACK_TOKEN is not set" in missing.stderr


def test_a_file_that_cannot_be_replaced_is_named(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(kept))

    monkeypatch.setattr(Path, "rename", fail)
    failed = run("rotate-token", "callback")

    assert failed.exit_code == 2
    assert f"{kept / 'callback_token'} cannot be replaced (Permission denied)" in failed.stderr
    assert [path.name for path in kept.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("kept")
def test_status_counts_the_callbacks_of_a_day_by_token(database: Database) -> None:
    (old,) = load_settings().callback_tokens()
    done("rotate-token", "callback")
    new = load_settings().callback_tokens()[0]
    came_with(database, old)
    came_with(database, "a-token-that-was-once-accepted-goNe", number=3)
    now = datetime.now(UTC)
    write(database, lambda connection: token_counts.add(connection, [HourCount(now, 7, now)], now))

    text, found = run("status").stdout, json.loads(run("status", "--json").stdout)
    assert re.search(rf"token …{re.escape(new[-4:])}, 24 h +0 *$", text, re.MULTILINE)
    assert re.search(rf"token …{re.escape(old[-4:])}, 24 h +12, last 60 min ago *$", text, re.MULTILINE)
    assert re.search(r"token …goNe, 24 h +3, last 60 min ago; not accepted *$", text, re.MULTILINE)
    assert re.search(r"wrong token, 24 h +7 *$", text, re.MULTILINE)
    assert [(one["token_ending"], one["accepted"], one["last_day"]) for one in found["callback_tokens"]] == [
        (new[-4:], True, 0),
        (old[-4:], True, 12),
        ("goNe", False, 3),
    ]
    assert found["callback_tokens"][1]["last_at"].endswith("Z")
    assert found["wrong_tokens_last_day"] == 7
    assert not any(token in text + str(found) for token in (old, new))
