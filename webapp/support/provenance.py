"""Says of every setting where its value comes from, and what in ``.env`` is of no use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from webapp.support.settings import ENV_FILE, OTHERS_NAMES, Settings
from webapp.support.spelling import likely

if TYPE_CHECKING:
    from collections.abc import Mapping

_GENERATED = {"callback_token", "api_token", "phone_hash_key"}
ENVIRONMENT, FILE, GENERATED, DEFAULT = "environment", ENV_FILE, "generated file", "default"


class Origin(NamedTuple):
    """A setting as it is in force.

    ``value``: the text as it was given, or the default; None: not set. A secret is shown as ``set``. ``overrides``:
    the environment has another value than ``.env``.
    """

    name: str
    value: str | None
    source: str
    overrides: bool


class EnvFile(NamedTuple):
    """What in ``.env`` has no effect: names of no setting, each with the most similar one, and broken lines."""

    unknown: dict[str, str | None]
    broken_lines: list[int]


def origins(settings: Settings) -> list[Origin]:
    """Every setting, in the order of docs/settings.md."""
    environment, file = _names_in_lower_case(os.environ), _names_in_lower_case(dotenv_values(ENV_FILE))
    return [_origin(name, settings, environment, file) for name in Settings.model_fields]


def _origin(name: str, settings: Settings, environment: Mapping[str, str], file: Mapping[str, str]) -> Origin:
    field = Settings.model_fields[name]
    # An empty variable counts as absent, one of blanks as a value that is blank: the default stands.
    given = environment.get(name) or file.get(name) or ""
    overrides = bool(environment.get(name) and file.get(name)) and environment[name].strip() != file[name].strip()
    if given.strip():
        value: str | None = given.strip() if field.repr else "set"
        return Origin(name.upper(), value, ENVIRONMENT if environment.get(name) else FILE, overrides)
    # exists() of Path raises what this user may not look at.
    if name in _GENERATED and os.path.exists(settings.instance_dir.resolve() / name):  # noqa: PTH110
        return Origin(name.upper(), "set", GENERATED, overrides)
    default = field.default if field.default is None else str(field.default)
    return Origin(name.upper(), default, DEFAULT, overrides)


def _names_in_lower_case(given: Mapping[str, str | None]) -> dict[str, str]:
    return {name.lower(): value for name, value in given.items() if value is not None}


def env_file() -> EnvFile | None:
    """What is of no use in ``.env``; None: there is no such file, or it cannot be read."""
    try:
        with Path(ENV_FILE).open(encoding="utf-8") as stream:
            lines = list(parse_stream(stream))
    except (OSError, ValueError):
        return None
    known = {name.upper() for name in Settings.model_fields}
    names = dict.fromkeys(line.key for line in lines if line.key and not line.error)
    unknown = {name: likely(name.upper(), known, similarity=0.6) for name in names if _is_unknown(name, known)}
    return EnvFile(unknown, [line.original.line for line in lines if line.error])


def _is_unknown(name: str, known: set[str]) -> bool:
    return name.upper() not in known | OTHERS_NAMES
