"""The man page is made from the help: it says all of it, and the programs that read man pages find no fault in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from webapp.cli.commands import COMMANDS, cli
from webapp.cli.man_page import man_page
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page in a file."""
    file = tmp_path_factory.mktemp("man") / "esms-calls.1"
    file.write_text(man_page(), encoding="ascii")
    return file


def needed(program: str) -> str:
    if shutil.which(program) is None and "CI" not in os.environ:
        pytest.skip(f"{program} is not there (Debian: apt-get install {program})")
    return program


def test_mandoc_finds_no_fault(page: Path) -> None:
    checked = subprocess.run([needed("mandoc"), "-T", "lint", page], capture_output=True, text=True, check=False)

    assert (checked.stdout, checked.returncode) == ("", 0)


READERS = [["mandoc", "-T", "utf8", "-O", "width=300"], ["man", "-l"]]


@pytest.mark.parametrize("program", READERS, ids=["mandoc", "man"])
def test_a_reader_sees_every_command_option_and_setting(page: Path, program: list[str]) -> None:
    needed(program[0])
    environment = os.environ | {"MANWIDTH": "300", "LC_ALL": "C.UTF-8"}
    read = subprocess.run([*program, page], capture_output=True, text=True, check=True, env=environment)
    shown = re.sub(".\b", "", read.stdout)
    words = {word.strip("[],.") for word in shown.split()}

    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command
            assert name in words
            options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
            assert {one.opts[-1] for one in options} - words == set()
    assert {name.upper() for name in Settings.model_fields} - words == set()
    assert not re.search(r"\\[&f\[-]", shown)


def test_the_page_has_the_day_that_builds_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")

    assert man_page().startswith(".TH ESMS-CALLS 1 1970-01-02 ")
