"""Async: FastAPI and asyncpg, one upsert-and-history statement for each request, prepared by the driver."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from fastapi import FastAPI, Request

from bench.peers.message import parse
from bench.peers.statement import COLUMNS, STORE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=_lifespan)


@app.get("/esms/callback/{token}")
async def receive(token: str, request: Request) -> dict[str, Any]:  # noqa: ARG001 - the peers check no token
    """Answer after the commit."""
    row = parse(request.query_params, request.client.host if request.client else None)
    await app.state.pool.execute(STORE, *(row[name] for name in COLUMNS))
    return {"result": "stored"}
