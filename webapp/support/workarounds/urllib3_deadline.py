"""Limits an HTTP exchange as a whole: when its time is over, its connection is cut.

A timeout of ``requests`` and urllib3 is for each read, so an answer that drips in byte by byte has no limit at all. One
for the whole exchange was declined (psf/requests#3099, "overall timeout"); with it, this file can go.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from webapp.support.workarounds import urllib3_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator


class DeadlineSession(requests.Session):
    """A session that makes one request at a time, each inside ``with session.deadline(seconds):``."""

    def __init__(self) -> None:
        """Connect to nothing yet."""
        super().__init__()
        self.kept_connection = False
        """Whether the last request left on a connection that an earlier one had used."""
        self.connected = False
        """Whether the connection of the last request was made, its TLS handshake included."""
        self._ends_at = 0.0
        self._connection: socket.socket | None = None
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self))

    @contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Limit the one request of this block: name resolution, connection, TLS handshake and answer together.

        When the time is over the request fails with any error of the socket, and ``deadline_passed`` is True.
        """
        self._ends_at = time.monotonic() + seconds
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self._forget()

    @property
    def deadline_passed(self) -> bool:
        """Whether the time of the block is over."""
        return self.seconds_left <= 0

    @property
    def seconds_left(self) -> float:
        """How much of the block's time is left."""
        return self._ends_at - time.monotonic()

    def watch(self, connected: Any) -> None:
        """Cut this socket when the time is over. By a duplicate: TLS and ``http.client`` detach or close their own."""
        self._forget()
        self._connection = socket.socket(fileno=os.dup(connected.fileno()))
        if self.deadline_passed:
            self._cut()

    def _cut(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()


# The session goes the way of the request: the adapter has it, gives it to the pool, and the pool to the connection.


class _Adapter(HTTPAdapter):
    def __init__(self, session: DeadlineSession) -> None:
        super().__init__()
        self._session = session

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.session = self._session
        return pool


class _Connection:
    """Connects by the quickest address; has its socket watched from before the TLS handshake to the last byte."""

    sock: Any
    host: str
    port: int
    session: DeadlineSession

    def _new_conn(self) -> Any:
        connection: Any = self
        self.session.kept_connection = self.session.connected = False
        try:
            connected = urllib3_addresses.connect(connection._dns_host, self.port, self.session.seconds_left)  # noqa: SLF001
        except socket.gaierror as error:
            raise NameResolutionError(self.host, connection, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, "no address answered") from error
        except OSError as error:
            raise NewConnectionError(connection, str(error)) from error
        self.session.watch(connected)
        return connected

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.session.connected = True

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            self.session.watch(self.sock)
        super().request(*args, **options)  # type: ignore[misc]


class _HTTPConnection(_Connection, HTTPConnection):
    pass


class _HTTPSConnection(_Connection, HTTPSConnection):
    pass


class _Pool:
    session: DeadlineSession

    def _get_conn(self, *args: Any, **options: Any) -> Any:
        connection = super()._get_conn(*args, **options)  # type: ignore[misc]
        connection.session = self.session
        self.session.kept_connection = self.session.connected = True
        return connection


class _HTTPPool(_Pool, HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
