"""What strangers, broken programs and other sites send to the playground is answered 400 or 403 and keeps no thread."""

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from tools.playground import __main__ as playground
from tools.playground.request import PIXELS, parse, read_picture, text


class Session:
    """Answers with what it was asked."""

    def about(self):
        return {"step": 7}

    def example(self, number):
        return {"number": number}

    def generate(self, request):
        return {"made": request}


@pytest.fixture(scope="module")
def port():
    server = playground.serve(Session(), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def send(port, raw: bytes, wait=10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as s:
        s.sendall(raw)
        s.shutdown(socket.SHUT_WR)
        parts = []
        while part := s.recv(65536):
            parts.append(part)
    return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def post(body: bytes, host="localhost", **headers) -> bytes:
    head = {"Host": host, "Content-Type": "application/json", "Content-Length": len(body)} | {
        key.replace("_", "-"): value for key, value in headers.items()
    }
    lines = "".join(f"{k}: {v}\r\n" for k, v in head.items() if v is not None)
    return f"POST /generate HTTP/1.1\r\n{lines}\r\n".encode() + body


@pytest.mark.parametrize("host", ["localhost", "localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST", "10.1.2.3"])
def test_this_machine_is_answered(port, host):
    assert status(send(port, f"GET /about HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) == 200
    assert status(send(port, post(b'{"targets": ["a"]}', host))) == 200


@pytest.mark.parametrize(
    "hosts, wanted",
    [
        (["evil.example"], 403), (["evil.example:7860"], 403), (["localhost.evil.example"], 403), ([], 400),
        ([""], 400), (["localhost", "localhost"], 400), (["localhost@evil.example"], 400), (["local host"], 400),
        (["[::1"], 400),
        (["localhost:port"], 400), (["\u00fc"], 400), (["127.0.0.1.evil.example"], 403),
    ],
)  # fmt: skip
def test_names_that_lead_here_from_elsewhere_are_refused(port, hosts, wanted):
    """A site that points its name at this machine (DNS rebinding) sends that name."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    for path in ("/", "/about", "/example?number=1"):
        answer = send(port, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        assert status(answer) == wanted and b"error" in answer
    body = b'{"targets": ["a"]}'
    head = f"POST /generate HTTP/1.1\r\n{lines}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert status(send(port, head.encode() + body)) == wanted


DEEP = b'{"given": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
HOSTILE = [
    b"", b"{", b"null", b"3", b'"x"', b"[]", b"\xff\xfe", b"NaN", DEEP,
    b'{"targets": ' + b"[" * 990 + b"]" * 990 + b"}",
    b'{"targets": "caption"}', b'{"targets": [1]}', b'{"targets": {}}', b'{"targets": []}', b'{"targets": null}',
    b'{"targets": ["a", "a"]}', b'{"given": [], "targets": ["a"]}', b'{"given": {"a": 3}, "targets": ["a"]}',
    b'{"given": {"a": null}, "targets": ["a"]}', b'{"settings": [], "targets": ["a"]}',
    b'{"more": 1, "targets": ["a"]}',
    *(b'{"targets": ["a"], "settings": {%s}}' % s for s in (
        b'"seed": "1"', b'"seed": 1.5', b'"seed": 1e999', b'"seed": -1', b'"seed": true', b'"seed": 99999999999',
        b'"seed": NaN', b'"seed": [1]', b'"steps": 0', b'"steps": 1001', b'"steps": 2.0', b'"steps": null',
        b'"steps": -Infinity', b'"temperature": "hot"', b'"temperature": -1', b'"temperature": Infinity',
        b'"temperature": 1e400', b'"guidance": {"a": 1}', b'"guidance": 1e308', b'"top_p": 2', b'"top_k": -1',
        b'"method": 3', b'"schedule": null', b'"name": "x"', b'"__class__": 1', b'"noise": -0.5',
        b'"seed": ' + b"9" * 5000,
    )),
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_every_malformed_request_is_answered_with_400(port, body):
    answer = send(port, post(body))
    assert status(answer) == 400 and json.loads(answer.partition(b"\r\n\r\n")[2])["error"], answer[:200]


@pytest.mark.parametrize(
    "length", ["-1", "x", "1_0", "", None, "9" * 25, "+5", "\u0665", "5, 5", "18\r\nContent-Length: 18"]
)
def test_lengths(port, length):
    assert status(send(port, post(b'{"targets": ["a"]}', Content_Length=length))) == 400


def test_more_lengths(port):
    assert status(send(port, post(b"", Content_Length=playground.LIMIT + 1))) == 413
    assert status(send(port, post(b'{"targets"', Content_Length=1000))) == 400, "it ended before it was all there"
    assert status(send(port, post(b"0\r\n\r\n", Transfer_Encoding="chunked"))) == 400
    assert status(send(port, b"GET /example?number=1e5 HTTP/1.1\r\nHost: localhost\r\n\r\n")) == 400
    for number in ("9" * 5000, "\u0663", "1&number=2", "-", "0x3", "&" * 50):
        ask = f"GET /example?number={number} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert status(send(port, ask.encode())) == 400
    assert b"Error code: 400" in send(port, b"\x16\x03\x01\x02\x00 \r\n\r\n")
    assert b'"number": -7' in send(port, b"GET /example?number=-7 HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_those_who_say_nothing_do_not_keep_others_out(monkeypatch):
    """By a byte now and then or by none: the idle and the slow are closed, and too many at a time."""
    monkeypatch.setattr(playground, "READING", 1.0)
    monkeypatch.setattr(playground, "CONNECTIONS", 3)
    monkeypatch.setattr(playground.Handler, "timeout", 0.5)
    server = playground.serve(Session(), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask = b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n"
    silent, dripping, halted = (socket.create_connection(server.server_address) for _ in range(3))
    halted.sendall(post(b"x", Content_Length=100))
    time.sleep(0.1)
    with socket.create_connection(server.server_address, timeout=5) as late:
        late.settimeout(5)
        assert late.recv(10) == b"", "all places are taken"
    start, closed = time.monotonic(), False
    while time.monotonic() - start < 5 and not closed:
        try:
            dripping.sendall(b"G")
        except OSError:
            closed = True
        time.sleep(0.2)
    assert closed, "a byte every fifth of a second is not enough"
    assert status(send(server.server_port, ask)) == 200
    for s in (silent, dripping, halted):
        s.close()
    server.shutdown()
    server.server_close()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def bomb(side: int) -> bytes:
    """A PNG whose header says side × side."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_pictures_are_bounded_before_they_are_decoded():
    side = int(PIXELS**0.5) + 1
    for data in (bomb(side), bomb(60_000), b"", b"%!PS\n(x) show", b"\x89PNG\r\n\x1a\n" + b"\0" * 40):
        with pytest.raises(ValueError, match="given 'x': is no picture"):
            read_picture("x", url(data), 3)
    for text_url in ("", "data:,", "nonsense", "data:image/png;base64,###", "x" * 1000):
        with pytest.raises(ValueError, match="given 'x': is no picture"):
            read_picture("x", text_url, 3)
    made = io.BytesIO()
    Image.fromarray(np.full((5, 4, 3), 7, np.uint8)).save(made, "TGA")
    with pytest.raises(ValueError, match="is no picture"):
        read_picture("x", url(made.getvalue()), 3)  # no format that a page sends


def test_texts_are_bounded_and_unicode():
    with pytest.raises(ValueError, match="20000 characters: at most"):
        text("caption", "a" * 20_000)
    with pytest.raises(ValueError, match="character 2 is half of one"):
        text("caption", "ab\ud83d")
    assert parse(b'{"given": {"a": "x"}, "targets": ["b"], "settings": {"last_temperature": null, "steps": 3}}') == {
        "given": {"a": "x"}, "targets": ["b"], "settings": {"last_temperature": None, "steps": 3},
    }  # fmt: skip
