"""A token that is not set is generated once, also by several processes at the same moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from running import PROCESSES

from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier
    from pathlib import Path


def ask_for_tokens(folders: list[str], path: str, start: Barrier) -> None:
    os.environ.pop("CALLBACK_TOKEN", None)  # of the test during which the processes' parent began
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - a string, for the process
        for folder in folders:
            start.wait(60)
            settings = load_settings(instance_dir=folder, api_token="set-as-it-is-not-asked-for")
            settings.make_tokens()
            file.write(f"{settings.callback_tokens()[0]}\n")


def test_processes_that_need_a_token_at_the_same_moment_get_the_same(tmp_path: Path) -> None:
    folders = [str(tmp_path / f"instance-{number}") for number in range(60)]
    paths = [tmp_path / f"tokens-{number}" for number in range(4)]
    start = PROCESSES.Barrier(len(paths))
    processes = [PROCESSES.Process(target=ask_for_tokens, args=(folders, str(path), start)) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0] * len(paths)
    first, *others = [path.read_text().splitlines() for path in paths]
    assert len(set(first)) == len(folders)
    assert all(other == first for other in others)
    assert [len(list((tmp_path / f"instance-{number}").iterdir())) for number in range(60)] == [1] * 60
