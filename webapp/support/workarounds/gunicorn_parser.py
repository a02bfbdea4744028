"""Changes two things in how gunicorn reads requests.

1. gunicorn (since benoitc/gunicorn#3059) answers 400 to a request line with blanks or letters that are not ASCII. A
   callback with values that are not URL-encoded (*assumed*: ``CallStatus=NO ANSWER``) would be lost. Needed until
   gunicorn has a setting; no issue asks for one yet.
2. gunicorn reads a body that the application left unread to its end, however long it is, to keep the connection. Here
   such an answer says ``Connection: close``. Needed until gunicorn limits what it reads there for every worker; no
   issue asks for it yet.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_from_bytes

from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from webapp.support.settings import CALLBACK_PATH

_LITERAL = bytes(range(0x21, 0x7F)).replace(b"#", b"").decode()
"""Characters of a target that are not encoded. gunicorn drops a raw `#` and what follows it as a fragment."""


class LenientRequest(Request):  # type: ignore[misc]
    """A request as gunicorn reads it, with the two changes."""

    def parse_request_line(self, line_bytes: bytes) -> None:
        """Read the request line; percent-encode what is not allowed in the target of a callback."""
        method, _, rest = line_bytes.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if target.startswith(CALLBACK_PATH.encode()):
            line_bytes = b" ".join([method, quote_from_bytes(target, safe=_LITERAL).encode(), version])
        super().parse_request_line(line_bytes)

    def should_close(self) -> bool:
        """Whether the connection ends with this request; asked when the answer's head is written."""
        return self.has_unread_body() or super().should_close()

    def has_unread_body(self) -> bool:
        """Whether some of the body was not read yet."""
        reader: Any = self.body.reader
        if hasattr(reader, "length"):
            return bool(reader.length)
        return getattr(reader, "parser", None) is not None


def install() -> None:
    """Make gunicorn read requests so, in every worker of this process."""
    RequestParser.mesg_class = LenientRequest
