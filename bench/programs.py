"""The program that is measured: the command ``esms-calls`` of this checkout, or of an older one."""

from __future__ import annotations

import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Program:
    """One checkout. It runs with the Python and the libraries of the benchmark, so that only its own code differs."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``esms-calls ARGUMENT…``; needs ``environment``."""
        module, function = self.entry_point
        start = f"import sys; from {module} import {function}; sys.exit({function}())"
        return [sys.executable, "-P", "-c", start, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The checkout comes before the one that is installed."""
        return {"PYTHONPATH": str(self.folder)}

    @property
    def entry_point(self) -> tuple[str, str]:
        """Module and function of the command, as pyproject.toml names them."""
        settings = tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))
        module, _, function = settings["project"]["scripts"]["esms-calls"].partition(":")
        return module, function


THIS = Program(ROOT)
_NO_FIGURES = {
    "webapp/storage/locked_calls.py": "LockedCalls._moments_to_mark = lambda self: ()",
    "webapp/web/refresher.py": "Refresher.start = lambda self: None",
}
"""What is appended to files so that nothing is marked, and no figures are made."""


def without_figures(folder: Path) -> Program:
    """A copy of this checkout in a new folder that keeps no figures up to date: what these cost is the difference."""
    for name in ("webapp", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, line in _NO_FIGURES.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{line}\n")
    return Program(folder)
