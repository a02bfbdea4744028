"""The tokens that a running server accepts: those of the instance folder can change while it runs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from webapp.support.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from webapp.support.settings import Settings

PAUSE_SECONDS = 2.0
"""How long a change may go unnoticed."""

log = logging.getLogger(__name__)


class AcceptedTokens:
    """The tokens of one kind. Looks at their file when it is asked for them, at most every two seconds."""

    def __init__(self, read: Callable[[], tuple[str, ...]], path: Path | None) -> None:
        """``path`` is the file that ``read`` reads; None: they cannot change. Raises ConfigError if there are none."""
        self._read = read
        self._path = path
        self._followers: list[Callable[[tuple[str, ...]], None]] = []
        self._look_at = time.monotonic() + PAUSE_SECONDS
        self._version = self._version_now()
        self._tokens = read()

    def __call__(self) -> tuple[str, ...]:
        """All that are accepted now. A file that cannot be read changes nothing, and the log says so, once."""
        if self._path is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + PAUSE_SECONDS
            if (version := self._version_now()) != self._version:
                self._version = version
                self._read_again()
        return self._tokens

    def on_change(self, follow: Callable[[tuple[str, ...]], None]) -> None:
        """Call ``follow`` with the new tokens whenever they change, before any of them is accepted."""
        self._followers.append(follow)

    def _read_again(self) -> None:
        try:
            tokens = self._read()
        except ConfigError as problem:
            log.error("the accepted tokens stay as they were: %s", problem)  # noqa: TRY400 - the message says all
            return
        for follow in self._followers:
            follow(tokens)
        self._tokens = tokens
        log.warning("%d tokens of %s are accepted now", len(tokens), self._path)

    def _version_now(self) -> object:
        """Another value whenever the file was replaced or written."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def callback_tokens(settings: Settings) -> AcceptedTokens:
    """Those of CALLBACK_TOKEN, else of the instance folder."""
    return AcceptedTokens(
        settings.callback_tokens, None if settings.callback_token else settings.token_file("callback")
    )


def api_tokens(settings: Settings) -> AcceptedTokens:
    """Those of API_TOKEN, else of the instance folder."""
    return AcceptedTokens(settings.api_tokens, None if settings.api_token else settings.token_file("api"))
