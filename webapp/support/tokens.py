"""Secret tokens: whether a given one is accepted, and those that are generated into the instance folder."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")


def is_well_formed(token: str) -> bool:
    """Whether it has at least 16 characters, all of them URL-safe."""
    return _TOKEN.fullmatch(token) is not None


def is_accepted(token: str, accepted: Iterable[str]) -> bool:
    """Whether it equals one of the accepted tokens; takes the same time wherever it differs."""
    given = token.encode("utf-8", "surrogatepass")
    return any([hmac.compare_digest(given, known.encode()) for known in accepted])  # noqa: C419 - all are compared


def stored_token(folder: Path, name: str) -> str | None:
    """The token in the file ``name`` of the folder; None if there is no such file. Raises OSError or ValueError."""
    try:
        return (folder / name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def make_token(folder: Path, name: str) -> None:
    """Generate a token into the file ``name`` of the folder, unless there is one. Raises OSError."""
    path = folder / name
    if not path.exists():
        _generate(folder, path)


def _generate(folder: Path, path: Path) -> None:
    files.make_folder(folder)
    draft, file = files.new_draft(folder, prefix=f".{path.name}")
    try:
        with file:
            file.write(f"{secrets.token_urlsafe(32)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces a file: of several processes the first one's token stays.
        with suppress(FileExistsError):
            os.link(draft, path)
        files.sync_folder(folder)
    finally:
        draft.unlink()
