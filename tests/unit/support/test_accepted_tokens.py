"""A running server accepts what the token's file holds now, and keeps what it accepted where that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from webapp.support import accepted_tokens, tokens
from webapp.support.settings import ConfigError, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "the-old-token-0123456789", "the-new-token-0123456789"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accepted_tokens, "PAUSE_SECONDS", 0)
    for name in ("CALLBACK_TOKEN", "API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "instance").mkdir()
    write(tmp_path, OLD)
    return load_settings(instance_dir=tmp_path / "instance")


def write(folder: Path, *lines: str) -> None:
    (folder / "instance/callback_token").write_text("".join(f"{line}\n" for line in lines))


def test_a_changed_file_is_followed_and_announced_first(settings: Settings, tmp_path: Path) -> None:
    accepted = accepted_tokens.callback_tokens(settings)
    changes: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    accepted.on_change(lambda new: changes.append((new, accepted._tokens)))  # noqa: SLF001 - those of that moment

    assert accepted() == (OLD,)
    write(tmp_path, NEW, OLD)
    assert accepted() == accepted() == (NEW, OLD)
    write(tmp_path, NEW)
    assert accepted() == (NEW,)
    assert changes == [((NEW, OLD), (OLD,)), ((NEW,), (NEW, OLD))]


@pytest.mark.parametrize("content", [[], ["short"], [NEW, "not a token of any kind!"]])
def test_a_file_without_tokens_changes_nothing_and_is_named(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: list[str]
) -> None:
    accepted = accepted_tokens.callback_tokens(settings)
    write(tmp_path, *content)

    assert accepted() == accepted() == (OLD,)
    (record,) = caplog.records
    assert str(tmp_path / "instance/callback_token") in record.getMessage()
    write(tmp_path, NEW)
    assert accepted() == (NEW,)


def test_a_file_that_is_gone_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    accepted = accepted_tokens.callback_tokens(settings)
    (tmp_path / "instance/callback_token").unlink()

    assert accepted() == (OLD,)


def test_a_file_is_looked_at_only_now_and_then(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted_tokens, "PAUSE_SECONDS", 3600)
    accepted = accepted_tokens.callback_tokens(settings)
    write(tmp_path, NEW)

    assert accepted() == (OLD,)


def test_tokens_that_are_set_do_not_follow_the_file(settings: Settings, tmp_path: Path) -> None:
    accepted = accepted_tokens.callback_tokens(settings.model_copy(update={"callback_token": (NEW, OLD)}))
    write(tmp_path, "another-token-of-the-file")

    assert accepted() == (NEW, OLD)


def test_without_any_token_there_is_nothing_to_accept(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="API_TOKEN is not set"):
        accepted_tokens.api_tokens(settings)


def test_a_change_keeps_the_files_mode_and_leaves_no_draft(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    tokens.change_tokens(folder, "callback_token", lambda found: (NEW, *found))

    assert tokens.stored_tokens(folder, "callback_token") == settings.callback_tokens() == (NEW, OLD)
    assert [path.name for path in folder.iterdir()] == ["callback_token"]
    assert (folder / "callback_token").stat().st_mode & 0o777 == 0o600


def test_a_change_that_fails_changes_nothing(tmp_path: Path, settings: Settings) -> None:
    def fail(_: tuple[str, ...]) -> tuple[str, ...]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        tokens.change_tokens(tmp_path / "instance", "callback_token", fail)

    assert settings.callback_tokens() == (OLD,)
