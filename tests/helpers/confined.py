"""Runs a command with what a systemd unit takes from it: ``python confined.py UNIT COMMAND…``, without systemd.

Real, by the kernel: SystemCallFilter and SystemCallErrorNumber, MemoryDenyWriteExecute, NoNewPrivileges and UMask.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

_NO_NEW_PRIVILEGES, _REFUSE_WRITABLE_CODE = 38, 65
"""Numbers of prctl."""
_ALLOW, _DENY_WITH_EPERM = 0x7FFF0000, 0x00050001
"""Actions of libseccomp."""


def system_calls(wanted: str) -> set[str]:
    """The names of a call or, with an @, of a set of systemd's."""
    if not wanted.startswith("@"):
        return {wanted}
    command = ["systemd-analyze", "--no-pager", "syscall-filter", wanted]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    members = [line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(system_calls(member) for member in members))


def allowed(unit: str) -> set[str]:
    """What its filters leave; @default is always allowed."""
    calls = system_calls("@default")
    for line in re.findall(r"(?m)^SystemCallFilter=(.*)$", unit):
        named = set().union(*(system_calls(word) for word in line.lstrip("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def confine(calls: set[str]) -> None:
    """Take all other calls, and memory that is both written and executed, from this process and its children."""
    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    assert libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert libc.prctl(_REFUSE_WRITABLE_CODE, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
    rules = ctypes.c_void_p(seccomp.seccomp_init(_DENY_WITH_EPERM))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            assert seccomp.seccomp_rule_add(rules, _ALLOW, number, 0) == 0, name
    assert seccomp.seccomp_load(rules) == 0


def main() -> None:
    """Become the command."""
    unit = Path(sys.argv[1]).read_text()
    for needed in ("NoNewPrivileges=yes", "MemoryDenyWriteExecute=yes", "SystemCallErrorNumber=EPERM", "UMask=0077"):
        assert f"\n{needed}\n" in unit, needed
    calls = allowed(unit)
    os.umask(0o077)
    confine(calls)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
