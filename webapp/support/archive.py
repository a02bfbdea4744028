"""One file that holds several, each with a digest: it is whole, or it is refused. A tar, compressed by gzip.

The last file in it is ``manifest.json``: what the others are. An archive that was cut off has none.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import re
import tarfile
import tempfile
import time
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from webapp.support import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FORMAT = "esms-calls backup 1"
_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 20
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_QUICK = 1
"""gzip's level: a quarter of the size, the fastest."""
_FILE_CHUNK = 1 << 20


class BadArchive(Exception):
    """The file is no archive of this program, or it is damaged. Its text says which file, and what is wrong."""


def write(path: Path, members: Mapping[str, Path], about: Mapping[str, Any], *, replace: bool = False) -> None:
    """Write the members and what is to be known ``about`` them; for this user alone, on the disk when it returns.

    Raises FileExistsError where there is such a file, unless it is to be replaced; and OSError.
    """
    draft, file = files.new_draft(path.parent, prefix=f".{path.name}")
    try:
        with file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=_QUICK) as tar:
                digests = {name: _add_member(tar, name, member) for name, member in members.items()}
                _add_manifest(tar, {"format": _FORMAT, **about, "sha256": digests})
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)  # noqa: PTH105 - beside os.link
        else:
            os.link(draft, path)
        files.sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path, folder: Path) -> dict[str, Any]:
    """Put all members into the folder, and return what is known about them. Raises BadArchive, and OSError."""
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            digests, manifest = _extract(tar, folder)
            while stream.read(_FILE_CHUNK):  # To the end, where gzip has its own sum.
                pass
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadArchive(f"{path} is damaged, or no backup of esms-calls ({error})") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT} or error.filename is not None:
            raise
        raise BadArchive(f"{path} is damaged, or no backup of esms-calls ({error})") from error
    if manifest.get("format") != _FORMAT:
        words = "was cut off: its end is missing" if not manifest else "was made by a version that this one cannot read"
        raise BadArchive(f"{path} {words}, or it is no backup of esms-calls")
    if manifest.get("sha256") != digests:
        raise BadArchive(f"{path} is damaged: what is in it is not what was put into it")
    return manifest


def _add_member(tar: tarfile.TarFile, name: str, member: Path) -> str:
    with member.open("rb") as file:
        source = _Hashing(file)
        tar.addfile(_tar_header(name, os.fstat(file.fileno()).st_size), source)
    return source.digest.hexdigest()


def _add_manifest(tar: tarfile.TarFile, manifest: Mapping[str, Any]) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(manifest, indent=1).encode())
        size = file.tell()
        file.seek(0)
        tar.addfile(_tar_header(_MANIFEST, size), file)


def _tar_header(name: str, size: int) -> tarfile.TarInfo:
    described = tarfile.TarInfo(name)
    described.size, described.mode, described.mtime = size, 0o600, int(time.time())
    return described


def _extract(tar: tarfile.TarFile, folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The digest of each member that was put into the folder, and the manifest; empty where there is none."""
    digests: dict[str, str] = {}
    for member in tar:
        content = tar.extractfile(member) if member.isreg() else None
        if content is None or not _MEMBER_NAME.fullmatch(member.name) or member.name in digests:
            raise tarfile.TarError("it holds something that is no plain file")
        if member.name == _MANIFEST:
            return digests, _parsed(content.read(_LARGEST_MANIFEST))
        with (folder / member.name).open("xb") as file:
            source = _Hashing(content)  # type: ignore[arg-type]
            while part := source.read(_FILE_CHUNK):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        digests[member.name] = source.digest.hexdigest()
    return digests, {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise tarfile.TarError("its manifest is no JSON") from error
    return manifest if isinstance(manifest, dict) else {}


class _Hashing:
    """A file that is read once, and its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        part = self._file.read(size)
        self.digest.update(part)
        return part
