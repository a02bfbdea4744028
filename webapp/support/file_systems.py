"""Reads from Linux which type of file system a folder is on."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
_EPHEMERAL = {"tmpfs", "ramfs", "overlay", "aufs"}
_NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "vboxsf"}
_NETWORK_FUSE = ("fuse.ceph", "fuse.davfs", "fuse.gluster", "fuse.goofys", "fuse.rclone", "fuse.s3fs", "fuse.sshfs")


def ephemeral_filesystem(folder: Path, mountinfo: Path = _MOUNTINFO) -> str | None:
    """The kind of file system that the folder lies on, if it is one that may not outlast this machine or container."""
    kind = _type_of(folder, mountinfo)
    return kind if kind in _EPHEMERAL else None


def network_filesystem(folder: Path, mountinfo: Path = _MOUNTINFO) -> str | None:
    """The kind, if it is another machine's: locks cannot be relied on there, nor shared memory, which SQLite needs."""
    kind = _type_of(folder, mountinfo)
    return kind if kind in _NETWORK or str(kind).startswith(_NETWORK_FUSE) else None


def _type_of(folder: Path, mountinfo: Path) -> str | None:
    try:
        mounts = [line.split(b" ") for line in mountinfo.read_bytes().split(b"\n") if line]
    except OSError:
        return None
    kinds = {_mounted_at(mount[4]): mount[mount.index(b"-") + 1].decode() for mount in mounts}
    above = (part for part in (folder, *folder.parents) if part in kinds)
    return kinds.get(next(above, folder))


def _mounted_at(name: bytes) -> Path:
    """What mountinfo writes with a backslash and three octal digits for a blank and the like."""
    return Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)))
