"""Secret tokens: whether a given one is accepted, and those in the instance folder: made, changed, finished."""

from __future__ import annotations

import errno
import hmac
import os
import re
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_TOKEN_LOCK_SECONDS = 10.0
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")


def is_well_formed(token: str) -> bool:
    """Whether it has at least 16 characters, all of them URL-safe."""
    return _TOKEN.fullmatch(token) is not None


def is_accepted(token: str, accepted: Iterable[str]) -> bool:
    """Whether it equals one of the accepted tokens; takes the same time wherever it differs."""
    return matching(token, accepted) is not None


def matching(token: str, accepted: Iterable[str]) -> str | None:
    """The accepted token that it equals; takes the same time wherever it differs."""
    given = token.encode("utf-8", "surrogatepass")
    equal = [known for known in accepted if hmac.compare_digest(given, known.encode())]  # All are compared.
    return equal[0] if equal else None


def ending(token: str) -> str:
    """Its last four characters, by which people may tell it from others."""
    return token[-4:]


def stored_tokens(folder: Path, name: str) -> tuple[str, ...] | None:
    """The tokens in the file ``name`` of the folder, one a line, the newest first; None if there is no such file.

    Raises OSError or ValueError.
    """
    try:
        return tuple((folder / name).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return None


def make_token(folder: Path, name: str) -> None:
    """Generate a token into the file ``name`` of the folder, unless there is one. Raises OSError."""
    path = folder / name
    if path.exists():
        return
    files.make_folder(folder)
    with _draft(path, [new_token()]) as draft:
        # A link never replaces a file: of several processes the first one's token stays.
        with suppress(FileExistsError):
            os.link(draft, path)
        files.sync_folder(folder)


def change_tokens(folder: Path, name: str, change: Callable[[tuple[str, ...]], Iterable[str]]) -> None:
    """Replace the tokens in the file ``name`` by what ``change`` makes of them, at once and for certain.

    Two commands change a file one after the other. What ``change`` raises is raised, and OSError.
    """
    path = folder / name
    with _locked(path):
        changed = change(stored_tokens(folder, name) or ())
        with _draft(path, changed) as draft:
            owner = path.stat()
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(draft, owner.st_uid, owner.st_gid)  # The server's user must be able to read it.
            draft.rename(path)
            files.sync_folder(folder)


def new_token() -> str:
    """43 URL-safe characters, out of 32 random bytes."""
    return secrets.token_urlsafe(32)


@contextmanager
def _draft(path: Path, tokens: Iterable[str]) -> Iterator[Path]:
    """A file beside ``path`` that holds the tokens, for its owner alone; removed in the end."""
    draft, file = files.new_draft(path.parent, prefix=f".{path.name}")
    try:
        with file:
            file.writelines(f"{token}\n".encode() for token in tokens)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file, which each of them replaces by another. Raises OSError."""
    while True:
        with path.open("rb") as file:
            if not files.lock(file, _TOKEN_LOCK_SECONDS):
                raise TimeoutError(errno.ETIMEDOUT, "another command changes it", str(path))
            # The file may have been replaced during the wait: its lock says nothing then.
            if files.inode(path) == files.inode(f"/proc/self/fd/{file.fileno()}"):
                yield
                return
