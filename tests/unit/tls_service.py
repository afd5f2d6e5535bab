"""A small service at an https address with a certificate that was made for it; it answers who brings its key."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from app.access.certificate import Certificate

KEY = "corral-mine"
CARDS = b'{"data": [{"id": "small", "state": "ready"}]}'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.headers["authorization"] == f"Bearer {KEY}" else 401)
        self.send_header("content-length", str(len(CARDS)))
        self.end_headers()
        self.wfile.write(CARDS)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def tls_service(certificate: Certificate) -> Iterator[int]:
    """Its port, on loopback."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.tls_path)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
