"""Doctor's checks of the settings: what in ``.env`` has no effect or is open to others, and where tokens come from."""

from __future__ import annotations

import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.cli.doctor_check import failed, halves, ok, skipped, warning
from webapp.support.provenance import env_file, origins
from webapp.support.settings import ENV_FILE, ConfigError, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from webapp.cli.doctor_check import Check
    from webapp.support.provenance import EnvFile, Origin

_MODE_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def settings_checks(settings: Settings) -> Iterator[Check]:
    """The checks that need nothing but the settings."""
    yield _overridden(origins(settings))
    path = Path(ENV_FILE).absolute()
    if file := env_file():
        yield _names_check(path, file)
        yield _mode(path)
    else:
        yield ok(ENV_FILE, f"there is no {path}, and none is needed")
    yield _tokens_check(settings)


def _overridden(given: list[Origin]) -> Check:
    if names := [origin.name for origin in given if origin.overrides]:
        return warning(
            "settings",
            f"the environment has other values than {ENV_FILE}, and wins: {', '.join(names)}",
            f"unset these variables, or take them out of {ENV_FILE}",
        )
    counted = Counter(origin.source for origin in given)
    return ok("settings", "all are valid; " + ", ".join(f"{number} from {name}" for name, number in counted.items()))


def _names_check(path: Path, file: EnvFile) -> Check:
    if file.broken_lines:
        numbers = ", ".join(map(str, file.broken_lines))
        return warning(
            ENV_FILE,
            f"{path} cannot be read at line {numbers}, which has no effect",
            "write NAME=value, one a line; comments begin with #",
        )
    if file.unknown:
        listed = (f"{name} (do you mean {meant}?)" if meant else name for name, meant in file.unknown.items())
        return warning(
            ENV_FILE,
            f"{path} has names that are no settings, and have no effect: {', '.join(listed)}",
            "correct or remove these names; docs/settings.md lists all settings",
        )
    return ok(ENV_FILE, f"every name in {path} is a setting")


def _mode(path: Path) -> Check:
    mode = path.stat().st_mode
    if mode & _MODE_OF_OTHERS:
        verb = "change" if mode & (stat.S_IWGRP | stat.S_IWOTH) else "read"
        words = f"{path} may hold secrets, and other users of this machine may {verb} it (mode {stat.S_IMODE(mode):o})"
        return warning(f"{ENV_FILE} mode", words, f"chmod 600 {path}")
    return ok(f"{ENV_FILE} mode", "it is for its owner alone")


def _tokens_check(settings: Settings) -> Check:
    folder = settings.instance_dir.resolve()
    for name in ("callback_token", "api_token"):
        if getattr(settings, name) is None and not (folder / name).exists():
            return skipped(
                "tokens",
                f"{name.upper()} is not set, and {folder / name} does not exist yet",
                "`esms-calls serve` makes it; if a server runs already, run doctor in its folder, with its settings",
            )
    try:
        callback, api = settings.callback_tokens(), settings.api_tokens()
    except ConfigError as error:
        return failed("tokens", *halves(str(error)))
    return ok("tokens", f"{len(callback)} accepted in the CallbackUrl, {len(api)} by the API")
