"""What is installed is what was locked: image and CI take exact versions with hashes, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import audit
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
IMAGE = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["parquet"]]
WANTED = {
    "image": IMAGE,
    "build": GROUPS["build"],
    "ci": [*IMAGE, *GROUPS["build"], *GROUPS["dev"], *GROUPS["bench"]],
}
LOCKED = tuple(WANTED)


def locked(name: str) -> dict[str, str]:
    """The versions of a lock file; where platforms differ, of one of them."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,-]+\])?==([^ ;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKED)
def test_everything_that_pyproject_asks_for_is_locked(name: str) -> None:
    """If this fails: make lock."""
    versions = locked(name)
    wanted = [Requirement(line) for line in WANTED[name]]
    missing = [one for one in wanted if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))]
    assert missing == []


@pytest.mark.parametrize("name", LOCKED)
def test_every_locked_version_has_hashes_and_no_place_of_its_own(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.findall(r"^(\S.*?)(?=^\S|\Z)", re.sub(r"(?m)^ *#.*\n", "", text), re.MULTILINE | re.DOTALL)
    assert len(entries) >= len(locked(name)) > 0
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert "://" not in text


def test_ci_tests_what_the_image_holds() -> None:
    assert locked("image").items() | locked("build").items() <= locked("ci").items()


def test_the_image_builds_with_what_the_package_builds_with() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(GROUPS["build"])


def test_the_image_comes_from_digests_and_hashes_alone() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert len({*bases}) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", bases[0])
    installs = re.findall(r"pip (?:install|wheel)\b.*", dockerfile)
    assert len(installs) == 4
    assert [line for line in installs if not re.search("--require-hashes -r|--no-deps", line)] == []


def test_ci_installs_what_is_locked() -> None:
    assert re.search(r"^export .*\bLOCKED=1$", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def test_sbom_names_every_package_of_the_image_with_its_hashes(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    made = [f"VENV={sys.prefix}", f"--assume-old={sys.prefix}/installed-dev", f"SBOM={file}"]
    subprocess.run([str(shutil.which("make")), "-s", *made, "sbom"], cwd=ROOT, check=True, capture_output=True)
    sbom = json.loads(file.read_text())
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "esms-calls")
    assert {part["name"]: part["version"] for part in sbom["components"]} == locked("image")
    assert all(part["externalReferences"][0]["hashes"] for part in sbom["components"])


# Known vulnerabilities

FOUND = {"dependencies": [{"name": "flask", "version": "0.1", "vulns": [{"id": "CVE-1", "fix_versions": ["0.2"]}]}]}
UNKNOWN = {"dependencies": [{"name": "flask", "skip_reason": "no route to its vulnerabilities"}]}
NONE = {"dependencies": [{"name": "flask", "version": "3.1", "vulns": []}]}


@pytest.mark.parametrize(
    ("image", "ci", "code", "said"),
    [
        (FOUND, FOUND, 1, "flask 0.1: CVE-1, mended in 0.2\nTake newer versions: make lock"),
        (NONE, FOUND, 0, "Warning, in CI alone: flask 0.1: CVE-1"),
        (NONE, NONE, 0, "No known vulnerabilities."),
        (UNKNOWN, UNKNOWN, 0, "Warning: known vulnerabilities were not looked for: no route"),
        (None, None, 0, "Warning: known vulnerabilities were not looked for: no route"),
    ],
)
def test_audit_fails_for_the_image_and_warns_of_the_rest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    image: object,
    ci: object,
    code: int,
    said: str,
) -> None:
    """With a program that prints what pip-audit would."""
    for name, found in (("image", image), ("ci", ci)):
        (tmp_path / f"{name}.txt").write_text(json.dumps(found) if found else "")
    program = tmp_path / "pip-audit"
    program.write_text('#!/bin/sh\nfor file; do :; done\ncat "$file"; echo "no route" >&2; exit 1\n')
    program.chmod(0o700)
    monkeypatch.setattr(audit, "PIP_AUDIT", str(program))
    monkeypatch.setattr(audit, "REQUIREMENTS", tmp_path)
    assert audit.main() == code
    assert said in capsys.readouterr().out


def test_audit_warns_without_a_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("Warning: known vulnerabilities were not looked for: ")
