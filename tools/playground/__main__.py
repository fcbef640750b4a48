"""python -m tools.playground --checkpoint=DIR [--port=7860]: a page on this machine to try a model by hand.

Give any modalities (draw, upload, type, or take a held-out example), choose what to make and in which order, and see
the chain. Of several models, DIR,DIR, each makes what those before it do not predict, such as a super-resolution
model what is finer. It listens on this machine alone (`--host` to change that); nothing is sent anywhere else.
"""

import argparse
import functools
import importlib.resources
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

from tools.playground.session import Session

LIMIT = 32 * 2**20  # bytes of a request


class Handler(BaseHTTPRequestHandler):
    """GET / (the page), /about, /example?number=N; POST /generate. Errors are {"error": text}."""

    def __init__(self, session: Session, *args):
        self.session = session
        super().__init__(*args)

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/":
            page = importlib.resources.files("tools.playground") / "page.html"
            return self._send(200, page.read_bytes(), "text/html; charset=utf-8")
        if url.path == "/about":
            return self._answer(self.session.about)
        if url.path == "/example":
            return self._answer(lambda: self.session.example(int(parse_qs(url.query).get("number", ["0"])[0])))
        self._json(404, {"error": f"{url.path}: there is /, /about, /example and /generate"})

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        # A page of another site could send a form here, but no JSON.
        if self.path != "/generate" or self.headers.get_content_type() != "application/json":
            return self._json(404, {"error": f"{self.path}: POST JSON to /generate"})
        if size > LIMIT:
            return self._json(413, {"error": f"{size} bytes: at most {LIMIT}; give smaller pictures"})
        body = self.rfile.read(size)
        self._answer(lambda: self.session.generate(json.loads(body)))

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


def serve(session: Session, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; port 0 takes a free one."""
    return ThreadingHTTPServer((host, port), functools.partial(Handler, session))


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
