"""Asks whether a locked package has a known vulnerability: ``make audit``.

Exit code 1: a package of the image has one. One that only CI uses, and a service that cannot be reached, are warnings:
a change must land without a network, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
PIP_AUDIT = str(Path(sys.executable).with_name("pip-audit"))
OPTIONS = ("--require-hashes", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=10")


class Unreachable(Exception):
    """The vulnerability service did not answer."""


def vulnerabilities(locked: Path) -> list[str]:
    """Each with its package and the versions that mend it; raises Unreachable."""
    done = subprocess.run([PIP_AUDIT, *OPTIONS, "-r", str(locked)], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise Unreachable(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer") from None
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):  # as where a mirror of PyPI knows no vulnerabilities
        raise Unreachable(skipped[0] if skipped else "no package")
    for reason in skipped:
        print(f"Warning: {reason}")
    return [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]


def main() -> int:
    """Print what was found."""
    try:
        image, every = (vulnerabilities(REQUIREMENTS / f"{name}.txt") for name in ("image", "ci"))
    except Unreachable as reason:
        print(f"Warning: known vulnerabilities were not looked for: {reason}")
        return 0
    for line in every:
        print(f"{'' if line in image else 'Warning, in CI alone: '}{line}")
    if image:
        print("Take newer versions: make lock LOCK='--upgrade-package NAME'")
    elif not every:
        print("No known vulnerabilities.")
    return 1 if image else 0


if __name__ == "__main__":
    sys.exit(main())
