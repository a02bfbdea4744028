"""Folders lie on file systems of many kinds: those that may not last, and other machines', are recognised."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from webapp.support.file_systems import ephemeral_filesystem, network_filesystem


def test_a_file_system_that_does_not_last_is_named(tmp_path: Path) -> None:
    assert ephemeral_filesystem(Path("/dev/shm/instance")) == "tmpfs"  # noqa: S108 - only named
    assert ephemeral_filesystem(Path("/proc/self")) is None
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    root = next(line.split() for line in reversed(mounted.splitlines()) if line.split()[4] == "/")
    kind = root[root.index("-") + 1]
    assert ephemeral_filesystem(Path("/nowhere/at/all")) == (
        kind if kind in {"tmpfs", "ramfs", "overlay", "aufs"} else None
    )
    assert ephemeral_filesystem(tmp_path) in {None, "tmpfs", "overlay"}


@pytest.mark.parametrize(
    "name", ["on a disk", "tab\t", "back\\slash", "line\n", "#1", "\\040", "\r", "đ\xa0ĩ", "\udcff"]
)
def test_mounted_folder_is_recognised_by_any_name(tmp_path: Path, name: str) -> None:
    escaped = re.sub(r"[ \t\n#\\]", lambda found: f"\\{ord(found[0]):03o}", name)
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(
        b"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        + os.fsencode(f"31 22 0:27 / /srv/{escaped} rw,nosuid shared:3 - tmpfs tmpfs rw\n")
    )

    assert ephemeral_filesystem(Path(f"/srv/{name}/instance"), mountinfo) == "tmpfs"
    assert ephemeral_filesystem(Path("/srv/another/instance"), mountinfo) is None


@pytest.mark.parametrize(
    ("kind", "named"),
    [("nfs4", "nfs4"), ("cifs", "cifs"), ("fuse.sshfs", "fuse.sshfs"), ("fuse.glusterfs", "fuse.glusterfs")]
    + [(kind, None) for kind in ("ext4", "xfs", "zfs", "overlay", "fuse.mergerfs", "fuseblk")],
)
def test_a_file_system_of_another_machine_is_named(tmp_path: Path, kind: str, named: str | None) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 22 0:27 / /srv rw shared:3 - {kind} host:/calls rw\n"
    )

    assert network_filesystem(Path("/srv/calls"), mountinfo) == named
    assert network_filesystem(Path("/var/lib"), mountinfo) is None
