"""An HTTP server that passes requests on to another, or does to them what networks do."""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What to do with a request, by its method and path: answer it with a status, or hand out half of
# the answer's body and then ``reset`` the connection, ``cut`` the body short, ``stall`` or go on in
# a ``trickle``. An answer without a body is lost. None passes everything on.
Fault = int | str | None
Faults = Callable[[str, str], Fault]
STALL_SECONDS = 12.0  # libcurl needs 5 more than the time that it is told to notice one
TRICKLE_SECONDS = 2.0
_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    faults: Faults

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client is gone
            self.close_connection = True

    def _pass_on(self) -> None:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        length = int(self.headers.get("Content-Length", 0))
        body = b"".join(self._chunks()) if chunked else self.rfile.read(length)
        fault = type(self).faults(self.command, self.path)
        if isinstance(fault, int):
            self._answer(fault, [("Content-Length", "0")])
            return
        upstream = http.client.HTTPConnection(*self.upstream)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP:
                upstream.putheader(name, value)
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders([body] if chunked else body, encode_chunked=chunked)
        answer = upstream.getresponse()
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _HOP]
        self._answer(answer.status, headers, answer.read(), fault)
        upstream.close()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        fault: str | None = None,
    ) -> None:
        self.close_connection = fault is not None
        if fault == "reset":  # RST rather than FIN, and what was not sent yet is thrown away
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault and not body:
            return
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        half = len(body) // 2 if fault else len(body)
        self.wfile.write(body[:half])
        if fault == "stall":
            time.sleep(STALL_SECONDS)
        elif fault == "trickle":
            for at in range(half, len(body), len(body) // 20 + 1):
                time.sleep(TRICKLE_SECONDS / 10)
                self.wfile.write(body[at : at + len(body) // 20 + 1])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy(host: str, port: int, faults: Faults) -> Iterator[str]:
    """Stand in front of an HTTP server; gives the URL to use instead."""
    handler = type(
        "Handler", (_Handler,), {"upstream": (host, port), "faults": staticmethod(faults)}
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
