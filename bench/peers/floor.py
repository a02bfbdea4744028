"""Floor: Flask reads the callback and stores nothing, which every Flask program must do at least."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, request

from bench.peers.message import parse

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

app = Flask(__name__)


@app.route("/esms/callback/<token>", methods=["GET", "POST"])
def receive(token: str) -> ResponseReturnValue:  # noqa: ARG001 - the peers check no token
    """Answer, having read all parameters."""
    parse(request.values, request.remote_addr)
    return {"result": "read"}
