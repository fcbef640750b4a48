"""python -m tools.playground --checkpoint=DIR [--port=7860]: a page on this machine to try a model by hand.

Give any modalities (draw, upload, type, or take a held-out example), choose what to make and in which order, and see
the chain. Of several models, DIR,DIR, each makes what those before it do not predict, such as a super-resolution
model what is finer. It listens on this machine alone (`--host` to change that); nothing is sent anywhere else.
"""

import argparse
import functools
import importlib.resources
import ipaddress
import json
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse, urlsplit

from tools.playground.request import parse
from tools.playground.session import Session

LIMIT = 32 * 2**20  # bytes of a request
IDLE, READING = 30, 120  # seconds: without a byte, and for the whole of a request
CONNECTIONS = 32


class Handler(BaseHTTPRequestHandler):
    """GET / (the page), /about, /example?number=N; POST /generate. Errors are {"error": text}."""

    timeout = IDLE

    def __init__(self, session: Session, names: frozenset, *args):
        self.session, self._names = session, names
        super().__init__(*args)

    def setup(self):
        super().setup()
        self._patience = threading.Timer(READING, self.connection.shutdown, [socket.SHUT_RDWR])
        self._patience.daemon = True
        self._patience.start()

    def finish(self):
        self._patience.cancel()
        super().finish()

    def do_GET(self):
        self._patience.cancel()
        if not self._is_asked_here():
            return None
        url = urlparse(self.path)
        if url.path == "/":
            page = importlib.resources.files("tools.playground") / "page.html"
            return self._send(200, page.read_bytes(), "text/html; charset=utf-8")
        if url.path == "/about":
            return self._answer(self.session.about)
        if url.path == "/example":
            return self._answer(lambda: self.session.example(_number(url.query)))
        return self._json(404, {"error": f"{url.path}: there is /, /about, /example and /generate"})

    def do_POST(self):
        if not self._is_asked_here():
            return None
        # A page of another site could send a form here, but no JSON.
        if self.path != "/generate" or self.headers.get_content_type() != "application/json":
            return self._json(404, {"error": f"{self.path}: POST JSON to /generate"})
        size = ", ".join(self.headers.get_all("Content-Length") or [])
        if not (size.isascii() and size.isdigit() and len(size) < 20) or "Transfer-Encoding" in self.headers:
            return self._json(
                400, {"error": f"Content-Length={size!r:.40}: give the bytes of the request, in one piece"}
            )
        if int(size) > LIMIT:
            return self._json(413, {"error": f"{size} bytes: at most {LIMIT}; give smaller pictures"})
        try:
            body = self.rfile.read(int(size))
        except OSError:  # it stopped in the middle
            return None
        self._patience.cancel()
        if len(body) < int(size):
            return self._json(400, {"error": f"{len(body)} bytes came of {size}"})
        return self._answer(lambda: self.session.generate(parse(body)))

    def _is_asked_here(self) -> bool:
        """A name of another site may lead to this machine: what it asks is refused, but for addresses."""
        hosts = self.headers.get_all("Host") or []
        name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 and _is_host(hosts[0]) else None
        if name is None:
            self._json(400, {"error": f"Host={', '.join(hosts)!r:.80}: must be one name of this machine"})
        elif name not in self._names and not _is_address(name):
            self._json(403, {"error": f"Host={name!r:.80}: is no name of this machine; it is {', '.join(self._names)}"})
        else:
            return True
        return False

    def _answer(self, make):
        try:
            self._json(200, make())
        except (ValueError, TypeError, FileNotFoundError) as e:
            self._json(400, {"error": str(e)})

    def _json(self, status, value):
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status, body: bytes, kind: str):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """At most `CONNECTIONS` at a time; further ones are closed at once."""

    daemon_threads = True

    def __init__(self, *args):
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # who asked has gone
            super().handle_error(request, client_address)


def _number(query: str) -> int:
    values = parse_qs(query, max_num_fields=8).get("number", ["0"])
    if len(values) > 1 or not re.fullmatch(r"-?[0-9]{1,18}", values[0]):
        raise ValueError(f"number={values[0]!r:.40}: must be one whole number")
    return int(values[0])


def _is_host(value: str) -> bool:
    return bool(re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", value))


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def serve(session: Session, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; port 0 takes a free one."""
    names = frozenset(name.lower() for name in ("localhost", host, socket.gethostname()) if name)
    return Server((host, port), functools.partial(Handler, session, names))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run's workdir, or several: DIR,DIR")
    parser.add_argument("--step", type=int, help="which checkpoint of the first; the newest if not given")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    args = parser.parse_args()
    server = serve(Session(*args.checkpoint.split(","), step=args.step), args.host, args.port)
    print(f"open http://{args.host}:{server.server_port}   (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
