"""A web server on this machine that serves files from memory and fails as it is told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Loopback:
    """What the server does; `faults` are used up by GET requests, one each: a status, `cut` or `slow`."""

    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    """Default: from the bytes."""
    faults: list[int | str] = field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path with query, range) of each request."""
    url: str = ""

    def gets(self, path: str) -> int:
        """Requests for a file's bytes so far."""
        return sum(method == "GET" and asked.partition("?")[0] == path for method, asked, _ in self.asked)


@contextmanager
def serving() -> Iterator[Loopback]:
    state = Loopback()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path, wanted = self.path.partition("?")[0], self.headers.get("Range", "")
            state.asked.append((self.command, self.path, wanted))
            fault = state.faults.pop(0) if body and state.faults else None
            data = state.files.get(path)
            if data is None or isinstance(fault, int):
                self.send_response(fault if isinstance(fault, int) else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted) if state.ranges else None
            part = data[int(match[1]) : int(match[2]) + 1] if match else data
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", state.tags.get(path, f'"{hash(data):x}"'))
            if path.endswith("/"):
                self.send_header("Content-Type", "text/html")
            self.end_headers()
            if not body:
                return
            if fault == "slow":
                time.sleep(0.6)
            if fault == "cut":
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                return
            self.wfile.write(part)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
