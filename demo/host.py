"""A picture host on loopback: what the demo fetches from, as if it were somebody's site."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class PictureHost:
    """Serves a table of paths over HTTP on a free port of 127.0.0.1."""

    def __init__(self, files: Mapping[str, tuple[bytes, str]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content, media_type = files.get(self.path, (b"", ""))
                self.send_response(200 if media_type else 404)
                self.send_header("Content-Type", media_type or "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing: the demo's own table tells."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """The URL of a path here."""
        return f"http://127.0.0.1:{self._server.server_port}{path}"
