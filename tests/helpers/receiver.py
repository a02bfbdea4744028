"""An HTTP server that takes callbacks and answers them as a test wants."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from webapp.esms.sandbox.calls import PlacedCall

TEMPLATE = "ReferenceId=&CallDuration=&CallStatus=&Ivr=&Price=&SentResult=&CID=&SendStatus="
TOKEN = "token-that-nobody-may-see"


class Receiver(ThreadingHTTPServer):
    """Records requests, and answers with the given statuses, all after the last one with that; 0 is no answer."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, *statuses: int) -> None:
        """Listen on any free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses or [200])
        self.paths: list[str] = []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/esms/callback/{TOKEN}?{TEMPLATE}"

    def of(self, call: PlacedCall) -> list[dict[str, str]]:
        """The callbacks of one call, in the order of their arrival."""
        reader = [dict(parse_qsl(urlsplit(path).query, keep_blank_values=True)) for path in self.paths]
        return [query for query in reader if call.reference_id in {query.get("ReferenceId"), query.get("SMSID")}]

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.paths.append(self.path)
            status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        if not status:
            self.server.closing.wait()
            return
        self.send_response(status)
        self.send_header("Location", "/another-place")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
