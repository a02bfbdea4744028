"""The command completion: real shells complete commands and options by what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import done, run
from running import COMMAND

from webapp.cli.commands import COMMANDS

BASH = """
eval "$(esms-calls completion bash)"
tab() {
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  _esms_calls_completion esms-calls
  echo "${COMPREPLY[@]}"
}
"""
ZSH = """
autoload -Uz compinit && compinit -u -d "$PWD/dump"
eval "$(esms-calls completion zsh)"
print -- ${_comps[esms-calls]}
_describe() { print -l -- ${(P)3} }
words=(esms-calls sta) CURRENT=2
_esms_calls_completion
"""
FISH = """
esms-calls completion fish | source
complete -C 'esms-calls sta'
complete -C 'esms-calls status --j'
"""


def shell(name: str, script: str, folder: Path) -> list[str]:
    """What the shell prints that runs the script."""
    if shutil.which(name) is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not there (Debian: apt-get install {name})")
    environment = os.environ | {"PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    ran = subprocess.run(
        [name, *options, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
        timeout=240,
    )
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def test_bash_completes(tmp_path: Path) -> None:
    offered = {
        "re": " ".join(name for name in COMMANDS if name.startswith("re")),
        "status --j": "--json",
        "spool dr": "drain",
    }
    typed = "\n".join(f"tab esms-calls {words}" for words in offered)

    assert shell("bash", BASH + typed, tmp_path) == [*offered.values()]


def test_zsh_completes(tmp_path: Path) -> None:
    found = shell("zsh", ZSH, tmp_path)

    assert found[0] == "_esms_calls_completion"
    assert any(line.startswith("status:") for line in found)


def test_fish_completes(tmp_path: Path) -> None:
    assert [line.split("\t")[0] for line in shell("fish", FISH, tmp_path)] == ["status", "--json"]


def test_the_tab_key_imports_no_command_to_list_them(tmp_path: Path) -> None:
    tab = {"_ESMS_CALLS_COMPLETE": "bash_complete", "COMP_WORDS": "esms-calls ", "COMP_CWORD": "1"}
    environment = os.environ | tab | {"PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run([COMMAND], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)

    assert ran.stdout.split() == [f"plain,{name}" for name in COMMANDS]
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "webapp.cli.commands" in imported
    assert imported & {"webapp.cli.completion", "webapp.cli.status", "sqlalchemy", "flask", "pydantic"} == set()


def test_another_shell_is_a_wrong_usage() -> None:
    refused = run("completion", "tcsh")

    assert refused.exit_code == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in refused.stderr


def test_version_names_program_and_number() -> None:
    assert done("--version").startswith("esms-calls, version ")
