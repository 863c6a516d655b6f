"""The origin that imports fetch from: it lives for as long as the run, and answers a path with the bytes
that its numbers say: /SEED/SIZE/MILLISECONDS. It hangs up in the middle now and then."""

from __future__ import annotations

import http.server
import random
import threading
import time

HEAD = b"\x01\x02\x03\x04"
"""What every content begins with, so that it is taken for no other type."""

TYPE = "application/octet-stream"


def bytes_of(seed: int, size: int) -> bytes:
    return (HEAD + random.Random(seed).randbytes(max(size - len(HEAD), 0)))[:size]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        seed, size, milliseconds = (int(part) for part in self.path.strip("/").split("/"))
        content = bytes_of(seed, size)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        half = size // 2
        self.wfile.write(content[:half])
        time.sleep(milliseconds / 1000)
        if random.random() < 0.05:
            self.close_connection = True
            return
        self.wfile.write(content[half:])

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Who asked was killed: nothing is wrong here."""


def start() -> str:
    """Its URL."""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
