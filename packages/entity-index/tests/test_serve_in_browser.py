"""The pages in a real browser: headless Chromium, driven over its debugging pipe."""

import json
import os
import shutil
import subprocess
import threading
import time
from itertools import count

import pytest
import uvicorn

from chunk_provenance import compute_order, open_store
from entity_index import open_index
from entity_index.serve_app import make_app
from entity_index.serve_command import listen
from entity_index.serve_steps import Training

pytestmark = pytest.mark.slow
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1200,900",
]
EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
TEXTS = ["Ada Lovelace met Babbage. She wrote.", f"Ada Lovelace {EVIL}", "Ada Lovelace is a ship."]


class Browser:
    """One tab; commands of the DevTools protocol go through a pipe, each ended by a zero byte."""

    def __init__(self, chromium, profile):
        self.numbers = count(1)
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        words = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", chromium, *flags]
        self.process = subprocess.Popen(
            words, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self.waiting = b""
        self.session = None
        targets = self.tell("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def tell(self, method, **parameters):
        """Send a command, give its result."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.waiting:
                self.waiting += os.read(self.read_end, 1 << 16)
            line, _, self.waiting = self.waiting.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script):
        """The value of an expression in the page."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script):
        """Until an expression is true."""
        for _ in range(500):
            if self.run(script):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {script}\n{self.run('document.documentElement.outerHTML')}")

    def open(self, address):
        self.tell("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(address)}")

    def press(self, key):
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "Tab": 9, "Escape": 27}
        known = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.tell("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **known)
        self.tell("Input.dispatchKeyEvent", type="keyUp", key=key, **known)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.write_end)
        os.close(self.read_end)


@pytest.fixture(scope="module")
def site(tmp_path_factory, row, build_pair):
    """The address of a server over a tiny index."""
    path = tmp_path_factory.mktemp("site")
    mentions = [
        row(0, 0, 12, "Q1", name="Ada Lovelace", hyperlink=1.0, score=0.9),
        row(0, 17, 24, "Q2", name="Babbage", entity_linking=0.7),
        row(0, 26, 29, "Q1", name="Ada Lovelace", coref_cluster=0.8, score=0.3),
        row(1, 0, 12, "Q1", name="Ada Lovelace", coref=0.7),
        row(1, 13, 20, "Q4", name=EVIL, coref=0.7),
        row(2, 0, 12, "Q3", name="Ada Lovelace", hyperlink=1.0),
    ]
    build_pair(path, TEXTS, mentions)
    order = compute_order(open_store(path / "store").bucket, batch_tokens=1, updates=6, seed=0)
    app = make_app(open_index(path / "index"), title="tiny", training=Training(order))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium, and these tests must run in CI")
        pytest.skip("no Chromium on this machine (chromium, chromium-browser or google-chrome in PATH)")
    opened = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def test_a_name_is_typed_completed_and_chosen_with_the_keyboard_alone(browser, site):
    browser.open(f"{site}/")
    browser.press("/")
    for letter in "ada":
        browser.press(letter)
    browser.wait("document.querySelectorAll('#suggestions [role=option]').length === 2")
    assert browser.run("q.getAttribute('aria-expanded')") == "true"
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    browser.press("ArrowUp")
    assert browser.run("document.querySelector('[aria-selected]').textContent") == "Ada Lovelace Q1 · 2"
    assert browser.run("q.getAttribute('aria-activedescendant')") == "suggestion-0"
    browser.press("Enter")
    browser.wait("location.search.startsWith('?q=Q1') && document.readyState === 'complete'")
    assert browser.run("document.querySelector('.total').innerText") == "2 chunks mention Q1"


def test_escape_closes_the_names_and_enter_then_searches_what_was_typed(browser, site):
    browser.open(f"{site}/?q=Q2")
    browser.press("/")
    for letter in "ada":
        browser.press(letter)
    browser.wait("!suggestions.hidden")
    browser.press("Escape")
    assert browser.run("[suggestions.hidden, q.value]") == [True, "ada"]
    browser.press("Enter")
    browser.wait("location.search.startsWith('?q=ada&') && document.readyState === 'complete'")
    assert browser.run("document.querySelector('main li').innerText") == "Ada Lovelace Q1, 2 chunks"


def test_a_slider_moved_by_key_changes_answer_address_and_margin(browser, site):
    browser.open(f"{site}/?q=Q1")
    browser.wait("document.querySelectorAll('#together li').length === 2")
    browser.run("document.getElementById('coref').focus()")
    for _ in range(3):
        browser.press("ArrowRight")
    assert browser.run("document.querySelector('[for=coref] ~ output').textContent") == "≥ 0.75"
    browser.wait("document.querySelector('.total').innerText === '1 chunk mentions Q1'")
    assert browser.run("location.search") == "?q=Q1&coref=0.75"
    browser.wait("document.querySelectorAll('#together li').length === 1")
    assert browser.run("document.activeElement.id") == "coref"


def test_two_entities_stay_two_when_a_slider_moves_and_go_when_another_name_is_asked(browser, site):
    browser.open(f"{site}/?q=Q1&also=Q2")
    browser.run("document.getElementById('coref').focus()")
    browser.press("ArrowRight")
    browser.wait("location.search === '?q=Q1&also=Q2&coref=0.65'")
    browser.press("/")
    for letter in "Q3":
        browser.press(letter)
    browser.press("Enter")
    browser.wait("location.search.includes('q=Q3') && document.readyState === 'complete'")
    assert "also" not in browser.run("location.search")


def test_from_a_hit_to_its_chunk_to_a_step_and_back_to_a_chunk(browser, site):
    browser.open(f"{site}/?q=Q1")
    browser.run("document.querySelector('.hits h2 a').click()")
    browser.wait("location.pathname === '/chunk/0' && document.readyState === 'complete'")
    browser.run("document.querySelector('#trained a').click()")
    browser.wait("location.pathname.startsWith('/step/') && document.readyState === 'complete'")
    assert browser.run("document.querySelector('.hits h2 a').getAttribute('href')") == "/chunk/0"


def test_what_stands_in_a_text_or_a_name_never_runs(browser, site):
    for address in ("/?q=Q1", "/chunk/1", "/step/2", "/step/3", "/together?q=Q1", "/?q=Q4"):
        browser.open(f"{site}{address}")
        browser.wait("!document.querySelector('#together a[href^=\"/together\"]')")
        assert "pwned" not in browser.run("document.title.replace(/<.*>/, '')")
        assert browser.run("document.images.length") == 0
    browser.open(f"{site}/")
    browser.press("/")
    browser.press("<")
    browser.wait("document.querySelectorAll('#suggestions li').length === 1")
    assert browser.run("suggestions.textContent").startswith("<script <script>document")
    assert browser.run("document.title") == "tiny"


def test_the_policy_stops_a_script_that_would_stand_in_the_page(browser, site):
    browser.open(f"{site}/")
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">');"
        "const script = document.createElement('script'); script.textContent = 'document.title = 2';"
        "document.body.append(script); new Promise((done) => setTimeout(done, 200))"
    )
    assert browser.run("document.title") == "tiny"


CONTRAST = """
(() => {
  const levels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = levels(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
  };
  let worst = [21, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(levels(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 80)];
  }
  return worst;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_light_and_dark(browser, site, scheme):
    browser.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for address in ("/", "/?q=Q1", "/chunk/0", "/step/1", "/?q=nobody"):
        browser.open(f"{site}{address}")
        ratio, where = browser.run(CONTRAST)
        assert ratio >= 4.5, (address, where)  # what WCAG 2 asks of text
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert dark == (scheme == "dark")


def test_a_narrow_window_has_no_sideways_scrolling(browser, site):
    browser.tell(
        "Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False
    )
    for address in ("/", "/?q=Q1", "/chunk/0", "/step/1"):
        browser.open(f"{site}{address}")
        assert browser.run("document.documentElement.scrollWidth") <= 360, address
    browser.tell("Emulation.clearDeviceMetricsOverride")
