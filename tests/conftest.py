"""Fixtures: a fresh, migrated database on SQLite and on a real PostgreSQL, and the application on it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from compiled_once import TEMPLATES
from constants import API_TOKEN, CALLBACK_TOKEN
from memory_folder import use_memory
from server_forks import share_prepared
from servers import Shared, fresh_database

from webapp import create_app
from webapp.storage.database import Database
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from flask import Flask
    from flask.testing import FlaskClient
    from xdist.workermanage import WorkerController

pytest_plugins = ["doctoring", "reconciling"]


SHARED = pytest.StashKey[Shared]()
_LONGEST = (
    *("readme", "durability", "serving", "outage_of_esms", "watch", "deploys", "abuse", "exactly_once"),
    *("page_in_a_browser", "proxies", "demo"),
)
"""Of the system tests, the longest first."""
_SHORT = "tests/unit"


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing made; xdist's workers are given the folder of their controller."""
    use_memory()
    given, first = getattr(config, "workerinput", {}).get("shared", (None, os.getpid()))
    config.stash[SHARED] = Shared(Path(given or tempfile.mkdtemp(prefix="esms-calls-")))
    share_prepared(config.stash[SHARED].folder, first)
    if given:
        _begin_elsewhere(config)
    else:
        # As Ctrl-C: the server ends with the run then, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _begin_elsewhere(config: pytest.Config) -> None:
    """Let each worker collect the files in another order: in a new checkout one of them compiles a file, not all."""
    worker: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    if config.args == config.getini("testpaths"):
        files = sorted(str(file) for file in Path("tests").rglob("test_*.py"))
        first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        config.args[:] = files[first:] + files[:first]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["shared"] = str(node.config.stash[SHARED].folder), os.getpid()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Also after Ctrl-C; the workers have ended."""
    if not hasattr(config, "workerinput"):
        config.stash[SHARED].remove()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Look for garbage once more, for what is reported of it; pytest and Python would then do it eight times."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected lasts as long as the run: the garbage collector need not look through it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal files out to xdist's workers, which get equal parts of the list: long tests first, unit tests last.

    So each worker keeps a file's servers to the end of the file, and takes from others what is short.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    short = [item for file in sorted(files) if file.startswith(_SHORT) for item in files.pop(file)]
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, file in enumerate(sorted(files, key=_place)):
        around, place = divmod(number, workers)
        parts[-1 - place if around % 2 else place] += files[file]
    for part in parts:
        missing = max(0, len(items) // workers - len(part))
        part.extend(short[:missing])
        del short[:missing]
    items[:] = [*(item for part in parts for item in part), *short]


def _place(file: str) -> tuple[int, str]:
    """Where a file comes, the longest first."""
    starts = [*(f"tests/system/test_{name}.py" for name in _LONGEST), "tests/system"]
    return next((place for place, start in enumerate(starts) if file.startswith(start)), len(starts)), file


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Iterator[Shared]:
    shared = pytestconfig.stash[SHARED]
    yield shared
    shared.drop_used()


@pytest.fixture(scope="session")
def postgresql(shared: Shared) -> str:
    return shared.postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path, shared: Shared) -> Iterator[str]:
    """URL of a database without tables; where the test asks for ``database``, too, of a migrated one without rows."""
    migrated = "database" in request.fixturenames
    if request.param == "sqlite":
        file = tmp_path / "calls.db"
        if migrated:
            shutil.copyfile(shared.migrated_file, file)
        yield f"sqlite:///{file}"
    else:
        with shared.migrated_database() if migrated else fresh_database(shared.postgresql) as url:
            yield url


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    """A migrated database."""
    database = Database(empty_database_url, patience=timedelta(seconds=10))
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Writer:
    return Writer(database)


@pytest.fixture
def reader(database: Database) -> Reader:
    return Reader(database)


@pytest.fixture
def settings(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a process on that database, also in the environment for commands run from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("INSTANCE_DIR", str(tmp_path / "instance"))
    monkeypatch.setenv("CALLBACK_TOKEN", CALLBACK_TOKEN)
    monkeypatch.setenv("API_TOKEN", API_TOKEN)
    return load_settings()


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    app.jinja_env.bytecode_cache = TEMPLATES
    yield app
    app.extensions["token_counter"].close()
    app.extensions["database"].close()
    app.extensions["ingest"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
