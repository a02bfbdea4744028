"""Compiles each statement, template and route once in a test process, not once for each of its thousands of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import BytecodeCache
from sqlalchemy import Engine, event
from werkzeug.routing import Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.bccache import Bucket
    from sqlalchemy import Connection


class _Statements(dict[Any, Any]):
    """What was compiled for any dialect of one name: all tests have the same options and versions of a database."""

    def get(self, key: Any, default: Any = None) -> Any:
        _dialect, *statement = key
        return super().get(tuple(statement), default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        _dialect, *statement = key
        super().__setitem__(tuple(statement), compiled)


class _Templates(BytecodeCache):
    """Their code, by name and content."""

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if compiled := self._compiled.get(bucket.key):
            bucket.bytecode_from_string(compiled)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()


TEMPLATES = _Templates()
_STATEMENTS = {"sqlite": _Statements(), "postgresql": _Statements()}


@event.listens_for(Engine, "engine_connect")
def _share(connection: Connection) -> None:
    connection.execution_options(compiled_cache=_STATEMENTS[connection.dialect.name])


_compile_route = Rule._compile_builder  # noqa: SLF001 - most of the time in which an application is made
_ROUTES: dict[tuple[object, ...], Callable[..., tuple[str, str]]] = {}


def _compile_route_once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: FBT001, FBT002
    """What makes URLs of a rule: it is handed the rule, and depends on nothing but its text."""
    key = (rule.rule, rule.host, rule.subdomain, repr(rule.defaults), append_unknown)
    if key not in _ROUTES:
        _ROUTES[key] = _compile_route(rule, append_unknown)
    return _ROUTES[key]


Rule._compile_builder = _compile_route_once  # type: ignore[method-assign,assignment]  # noqa: SLF001
