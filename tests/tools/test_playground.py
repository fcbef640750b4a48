"""The playground's server: what it offers, a chain through HTTP, drawn pictures, and what it refuses."""

import base64
import io
import json
import shutil
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import tiny
from PIL import Image
from toy_run import write_run

from tools.playground.__main__ import serve
from tools.playground.request import read_picture
from tools.playground.session import Session


@pytest.fixture(scope="module")
def session(toy_workdir):
    return toy_workdir


@pytest.fixture(scope="module")
def address(session):
    server = serve(Session(session), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(url, body=None, kind="application/json"):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": kind})) as response:
        return response.read()


def refused(url, body, kind="application/json"):
    with pytest.raises(urllib.error.HTTPError) as e:
        ask(url, body, kind)
    return e.value.code, json.loads(e.value.read())["error"]


def picture(image) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_the_page_and_what_it_lays_out(address):
    assert b"<title>Tokenloom playground</title>" in ask(address + "/")
    about = json.loads(ask(address + "/about"))
    assert about["step"] == 7
    assert [(m["name"], m["form"], m["grey"]) for m in about["modalities"]] == [
        ("render3d", "picture", False),
        ("caption", "text", False),
    ]


def test_a_chain_is_made_and_the_seed_tells_which(address):
    body = {"given": {"caption": "red heart"}, "targets": ["render3d"], "settings": {"steps": 2, "seed": 1}}
    made, again = (json.loads(ask(address + "/generate", body))["made"] for _ in range(2))
    assert made == again and made[0]["name"] == "render3d" and made[0]["value"].startswith("data:image/png;base64,")
    assert read_picture("render3d", made[0]["value"], 3).shape == (64, 64, 3)
    body["settings"]["seed"] = 2
    assert json.loads(ask(address + "/generate", body))["made"] != made
    example = json.loads(ask(address + "/example?number=3"))
    assert set(example) == {"render3d", "caption"} and example["caption"]
    body = {"given": {"render3d": example["render3d"]}, "targets": ["caption"]}
    other = {"given": {"render3d": picture(np.full((90, 50, 3), 99, np.uint8))}, "targets": ["caption"]}
    assert [json.loads(ask(address + "/generate", b))["made"][0]["name"] for b in (body, other)] == ["caption"] * 2
    assert len(json.loads(ask(address + "/generate", {"targets": ["caption", "render3d"]}))["made"]) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": []}, "choose at least one modality"),
        ({"targets": ["smell"]}, "none of the models predicts it: they have render3d, caption"),
        ({"given": {"smell": "x"}}, "given 'smell': must be one of render3d, caption"),
        ({"given": {"render3d": "data:image/png;base64,abcd"}}, "'render3d': is no picture"),
        ({"settings": {"speed": 1}}, "settings: 'speed' is none of method"),
        ({"settings": {"method": "magic"}}, "method='magic': must be one of roar, maskgit"),
    ],
)
def test_what_cannot_be_is_said(address, change, message):
    status, error = refused(address + "/generate", {"given": {"caption": "x"}, "targets": ["render3d"]} | change)
    assert status == 400 and message in error


def test_two_models(session, token_store, tmp_path):
    """A second one makes what the first does not: here drawings of the pictures that the first made."""
    c, workdir = tiny.emoji_run(token_store, ("masked",)), tmp_path / "lines"
    c.modalities[0].update(targets=False)
    c.modalities = [*c.modalities[:1], dict(c.modalities[0], name="flat", field="flat", targets=True)]
    c.objectives.masked.mixture = [dict(inputs={"render3d": 1.0}, targets={"flat": 1.0})]
    workdir.mkdir()
    write_run(c, workdir)
    both = Session(session, workdir)
    told = {m["name"]: (m["give"], m["make"]) for m in both.about()["modalities"]}
    assert told == {"render3d": (True, True), "caption": (True, True), "flat": (True, True)}
    request = {"given": {"caption": "red heart"}, "targets": ["render3d", "flat"], "settings": {"steps": 2}}
    made = {m["name"]: m["value"] for m in both.generate(request)["made"]}
    first = Session(session).generate(request | {"targets": ["render3d"]})["made"][0]["value"]
    assert made["render3d"] == first and read_picture("flat", made["flat"], 3).shape == (64, 64, 3)


def test_in_a_browser(address):
    """Headless Chromium: a caption becomes a picture, a drawing is taken as given, an error is shown."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'tokenloom[browser]'")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs chromium or google-chrome on the PATH")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto(address)
        page.fill("#text-caption", "red heart")
        page.click("#make-render3d")
        page.fill("#steps", "2")
        page.click("#go")
        image = page.wait_for_selector(".made-render3d img", timeout=120_000)
        assert page.evaluate("i => i.complete && i.naturalWidth", image) == 64
        assert page.inner_text("#status").startswith("from caption in")
        page.click("#make-render3d")  # no more
        page.click("#make-caption")
        box = page.locator("#draw-render3d").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 110, steps=4)
        page.mouse.up()
        page.click("#go")
        page.wait_for_selector(".made-caption p", timeout=120_000)
        assert page.inner_text("#status").startswith("from render3d in"), "what is made is not given as well"
        page.fill("#steps", "0")
        page.click("#go")
        page.wait_for_selector("#status.error")
        assert "steps=0: must be a whole number" in page.inner_text("#status")
        browser.close()
    assert not errors


def test_only_json_is_taken(address):
    assert refused(address + "/generate", {"targets": ["caption"]}, "text/plain")[0] == 404


def test_what_is_transparent_is_white():
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    image = read_picture("x", picture(clear), 3)
    assert image.shape == (4, 6, 3) and image[0, 0].tolist() == [10, 20, 30] and (image[1:] == 255).all()
    assert read_picture("x", picture(clear), 1).shape == (4, 6, 1)
