"""The page at /, in a real browser where there is one."""

import base64
import io
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.middleware import Middleware

from rayreid.batch import Census
from rayreid.calibrate import CalibrationSettings, calibrate
from rayreid.checkpoint import Trained, load_trained, save_trained
from rayreid.data.synthetic import draw_domain
from rayreid.experiment import compose
from rayreid.guard.access import Guard
from rayreid.guard.tokens import Scope, Tokens, add_token
from rayreid.serve.api import api
from rayreid.serve.galleries.asking import Galleries
from rayreid.serve.galleries.keeper import Keeper
from rayreid.serve.galleries.searching import Searched, Searcher, Wanted
from rayreid.serve.galleries.settings import GalleriesSettings
from rayreid.serve.hosted import Hosted
from rayreid.serve.models import Embedded, Explaining, Scored, State, Work, calibration_of, describe
from rayreid.serve.routes.page import FILES, HEADERS
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.methods.test_contract import learnt
from tests.serve.test_api import asked

PAGE = Path("rayreid/serve/page")


class Local:
    """The models of a service in this process: those of Ray Serve's replicas, without Ray."""

    def __init__(self, hosted: dict[str, Hosted], galleries: GalleriesSettings):
        self.hosted = hosted
        self.served = {name: one.served for name, one in hosted.items()}
        self.searchers = {name: Searcher(one, galleries) for name, one in hosted.items()}

    async def embed(self, name: str, work: Work) -> Embedded:
        return await self.hosted[name].embed(work)

    async def score(self, name: str, work: Work, pairs: np.ndarray) -> Scored:
        return await self.hosted[name].score(work, pairs)

    async def explain(
        self, name: str, work: Work, pair: tuple[int, int], *, lines: int, drawn: bool
    ) -> Explaining:
        return await self.hosted[name].explain(work, pair, lines=lines, drawn=drawn)

    async def search(
        self, name: str, work: Work, groups: Sequence[Sequence[int]], wanted: Wanted
    ) -> Searched:
        return await self.searchers[name].search(work, groups, wanted)

    async def forget(self) -> int:
        for searcher in self.searchers.values():
            await searcher.forget()
        return len(self.searchers)

    async def states(self) -> dict[str, State]:
        return {name: State(1) for name in self.served}


@contextmanager
def serving(service: Service, tokens: Tokens | None = None) -> Iterator[str]:
    """Serve over real HTTP, behind the guard, on a free port; yield the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = api(service, guards=[Middleware(Guard, tokens=tokens, loopback=True)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """Return the folder of a small QAConv-MS that was calibrated, and what is in it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    experiment = compose(
        "qaconv_ms",
        {
            "sources": ["synthetic=snow", "synthetic=subway"],
            "trunk.name": "test_resnet",
            "trunk.weights": "none",
            "trunk.frozen_norms": False,
            "trunk.stages": 2,
            "config.channels": 32,
            "config.hidden": 16,
            "config.global_hidden": 32,
            "loading.height": 64,
            "loading.width": 32,
            "synthetic.test_people": 24,
        },
    )
    census = Census({"snow": 4, "subway": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.methods.test_contract.experiment", lambda _: experiment)
        method = learnt("qaconv_ms")
    save_trained(folder / "best", experiment, census, method.state_dict())
    trained = load_trained(folder)
    rates = CalibrationSettings(rates=(0.1, 0.01, 1e-4), search_rates=(0.2,))
    calibrate(trained, "synthetic=plaza-noon", rates).save(folder)
    return folder, trained


@pytest.fixture(scope="module")
def service(
    calibrated: tuple[Path, Trained], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder, trained = calibrated
    served = describe("small", trained, calibration=calibration_of(folder, trained))
    bare = describe("bare", trained)
    settings = GalleriesSettings(store=str(tmp_path_factory.mktemp("galleries")))
    keeper = Keeper(settings.store, settings.limits)
    local = Local({"small": Hosted(served, trained), "bare": Hosted(bare, trained)}, settings)
    yield Service(local, Limits(), Galleries(keeper.ask, local, settings))
    keeper.close()


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with serving(service) as url:
        yield url


def test_the_page_comes_with_headers_that_let_nothing_else_in() -> None:
    for path, (name, kind) in FILES.items():
        answer = asked(method="GET", path=path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert answer.content == (PAGE / name).read_bytes()
        for header, value in HEADERS.items():
            assert answer.headers[header] == value
    assert asked(method="GET", path="/page/other.js").status_code == 404
    assert asked(method="GET", path="/page/..%2f..%2f__init__.py").status_code == 404
    assert "frame-ancestors 'none'" in HEADERS["Content-Security-Policy"]


def test_the_page_names_no_other_host_and_nothing_inline() -> None:
    html, script, style = (
        (PAGE / name).read_text() for name in ("index.html", "script.js", "style.css")
    )
    for text in (html, script, style):
        assert not re.search(
            r"(https?:)?//[a-z0-9]", re.sub(r"^\s*//.*|\s// .*", "", text, flags=re.M)
        )
    assert not re.search(r"<script(?![^>]*src=)|<style| style=| on[a-z]+=", html)
    assert "innerHTML" not in script
    assert "localStorage" not in script
    assert "document.cookie" not in script
    # Whatever is to be filled in has a name for those who do not see it.
    labelled = set(re.findall(r'for="([^"]+)"', html))
    for control in re.finditer(r'<(input|select|canvas)[^>]*id="([^"]+)"', html):
        before = html[: control.start()]
        inside = before.rfind("<label") > before.rfind("</label>")
        assert inside or control[2] in labelled or control[2] == "overlay", control[2]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files of drawn people: two of one person, then others."""
    folder = tmp_path_factory.mktemp("crops")
    drawn = draw_domain(
        "plaza-noon", height=192, width=96, train_people=2, test_people=4, cameras=2, crops=2,
        strength=1.0, seed=5,
    ).gallery  # fmt: skip
    order = np.lexsort((drawn.cameras, drawn.identities))
    files = []
    for number, i in enumerate(order):
        path = folder / f"person {drawn.identities[i]}, {number}.png"
        Image.fromarray(np.asarray(drawn.images[i])).save(path)
        files.append(path)
    return files


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Yield a headless Chromium that logs what it asks for."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("there is no chromium and chromedriver here: apt-get install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        opened.set_page_load_timeout(60)
        yield opened
    finally:
        opened.quit()


def until(found: Any, seconds: float = 60) -> Any:
    """Return what a function returns once that is anything."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "the page did not come to show it"
        time.sleep(0.1)
    return value


def text_of(browser: Any, name: str) -> str:
    return str(browser.find_element("id", name).text)


def assert_quiet(browser: Any, address: str, *, refused: int = 0) -> None:
    """Assert that nothing but the service was asked, and nothing went wrong on the page."""
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert asked
    # The browser's own pages, which a page cannot ask for, are shown before the first one.
    own = (address, f"blob:{address}", "data:", "chrome://", "chrome-untrusted://")
    assert [url for url in asked if not url.startswith(own)] == []
    # A refusal by the service is in the console as well; nothing else may be.
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert len([e for e in errors if "status of" in e]) == refused, errors
    assert [e for e in errors if "status of" not in e] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_crops_are_compared_in_a_browser(browser: Any, address: str, crops: list[Path]) -> None:
    browser.get(address)
    until(lambda: "plaza-noon" in text_of(browser, "models"))
    assert "not calibrated" in text_of(browser, "models")
    rates = [o.text for o in browser.find_elements("css selector", "#rate option")]
    assert rates == ["0.1", "0.01", "0.0001 (too few pairs)"]
    for name, crop in zip(("first", "second"), crops[:2], strict=True):
        browser.find_element("id", name).send_keys(str(crop))
    browser.find_element("css selector", "#compare button").click()
    shown = until(lambda: text_of(browser, "compared"))
    until(lambda: browser.find_element("id", "explained").is_displayed())
    files = [("images", crop.read_bytes()) for crop in crops[:2]]
    request = json.dumps({"pairs": [[0, 1]], "false_accept_rate": 0.01})
    said = httpx.post(address + "v1/match/pairs", files=files, data={"request": request}).json()
    score, decision = said["scores"][0], said["decisions"][0]
    assert f"score {score:.4g}".rstrip("0") in shown
    assert {"match": "match", "review": "for review", "no_match": "no match"}[decision] in shown
    assert f"{said['thresholds']['match']:.4g}".rstrip("0") in shown
    assert "95 %" in shown
    label = browser.find_element("id", "overlay").get_attribute("aria-label")
    assert "raise it most" in label
    # The overlay is there: the pixels of its halves are not all of one colour.
    colours = browser.execute_script(
        "const c = document.getElementById('overlay');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(d.filter((_, i) => i % 4 === 1)).size"
    )
    assert colours > 20
    assert browser.execute_script("return document.querySelectorAll('#matches li').length") > 0
    assert_quiet(browser, address)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_mistake_is_told_in_words_and_goes_away(
    browser: Any, address: str, crops: list[Path], tmp_path: Path
) -> None:
    browser.get(address)
    until(lambda: "plaza-noon" in text_of(browser, "models"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(crops[0].read_bytes()[:200])
    browser.find_element("id", "first").send_keys(str(crops[0]))
    browser.find_element("id", "second").send_keys(str(broken))
    browser.find_element("css selector", "#compare button").click()
    told = until(lambda: text_of(browser, "alert"))
    assert told.startswith("Images[1]")
    assert told.endswith(".")
    browser.find_element("id", "second").send_keys(str(crops[1]))
    assert not browser.find_element("id", "alert").is_displayed()
    # By the keyboard alone, with a model that is not calibrated.
    model = browser.find_element("id", "compare-model")
    model.send_keys("b")
    assert model.get_attribute("value") == "bare"
    model.send_keys("\ue004\ue007")  # a tab leads to the button, since no rate can be chosen
    until(lambda: "not calibrated" in text_of(browser, "compared"))
    until(lambda: browser.find_element("id", "explained").is_displayed())
    assert_quiet(browser, address, refused=1)


@pytest.fixture(scope="module")
def enrolled(address: str, crops: list[Path]) -> str:
    """Return the name of a gallery that holds the crops, two and more of each person."""
    made = httpx.post(address + "v1/galleries", json={"name": "hall", "model": "small"})
    assert made.status_code == 201, made.text
    files = [("images", crop.read_bytes()) for crop in crops]
    people = [crop.stem.partition(",")[0] for crop in crops]
    request = json.dumps({"identities": people, "cameras": ["door"] * len(crops)})
    url = address + "v1/galleries/hall/samples"
    answer = httpx.post(url, files=files, data={"request": request}, timeout=60)
    assert answer.status_code == 201, answer.text
    return "hall"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_gallery_is_searched_in_a_browser(
    browser: Any, address: str, crops: list[Path], enrolled: str
) -> None:
    browser.get(address)
    until(lambda: enrolled in text_of(browser, "listed"))
    assert browser.find_element("id", "gallery").get_attribute("value") == enrolled
    browser.find_element("id", "query").send_keys(str(crops[0]))
    browser.find_element("css selector", "#search button").click()
    shown = until(lambda: text_of(browser, "found"))
    # The people in the order of the method's own scores, the best crop of each counting.
    pairs = json.dumps({"model": "small", "pairs": [[0, i] for i in range(len(crops))]})
    files = [("images", crop.read_bytes()) for crop in crops]
    asked = httpx.post(address + "v1/match/pairs", files=files, data={"request": pairs}, timeout=60)
    best: dict[str, float] = {}
    for crop, score in zip(crops, asked.json()["scores"], strict=True):
        person = crop.stem.partition(",")[0]
        best[person] = max(score, best.get(person, score))
    rows = [row.text for row in browser.find_elements("css selector", "#found tbody tr")]
    wanted = sorted(best, key=lambda person: -best[person])
    assert [row[: len("person 0")] for row in rows] == wanted[: len(rows)]
    first = rows[0]
    assert "door" in first
    assert f"among {len({crop.stem.partition(',')[0] for crop in crops})} people" in shown
    box = browser.find_element("id", "gallery")
    box.clear()
    box.send_keys("cellar")
    browser.find_element("css selector", "#search button").click()
    assert "cellar" in until(lambda: text_of(browser, "alert"))
    assert_quiet(browser, address, refused=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_token_is_asked_for_and_kept_in_memory_alone(
    browser: Any, service: Service, tmp_path: Path
) -> None:
    secret = add_token(tmp_path / "tokens", "page", [Scope.MATCH], 100.0)
    with serving(service, Tokens(tmp_path / "tokens")) as address:
        browser.get(address)
        assert "Enter a token" in until(lambda: text_of(browser, "alert"))
        browser.find_element("id", "token").send_keys("wrong")
        browser.find_element("css selector", "#token-form button").click()
        until(lambda: "not known" in text_of(browser, "alert"))
        browser.find_element("id", "token").send_keys(secret)
        browser.find_element("css selector", "#token-form button").click()
        until(lambda: "plaza-noon" in text_of(browser, "models"))
        # Listing galleries needs another scope, and the page says so.
        until(lambda: "scopes" in text_of(browser, "no-galleries"))
        assert secret not in browser.page_source
        kept = "return [localStorage.length, sessionStorage.length, document.cookie, location.href]"
        assert browser.execute_script(kept) == [0, 0, "", address]
        browser.refresh()
        assert "Enter a token" in until(lambda: text_of(browser, "alert"))
        assert_quiet(browser, address, refused=4)


CONTRAST = """
const lum = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e)
  .backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility()
  && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
  const [a, b] = [lum(getComputedStyle(e).color), lum(behind(e))];
  return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, e.textContent.slice(0, 40)];
}).filter(([contrast, tag]) => contrast < 4.5 && !["OPTION", "SCRIPT", "STYLE", "TITLE"]
  .includes(tag));
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("desktop", 1100, "light"), ("dark", 1100, "dark"), ("phone", 360, "light")],
)
def test_it_fits_a_phone_and_can_be_read_in_the_dark(
    browser: Any, address: str, crops: list[Path], enrolled: str, name: str, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(address)
    until(lambda: enrolled in text_of(browser, "listed"))
    for control, crop in (("first", crops[0]), ("second", crops[1]), ("query", crops[2])):
        browser.find_element("id", control).send_keys(str(crop))
    browser.find_element("css selector", "#compare button").click()
    until(lambda: browser.find_element("id", "explained").is_displayed())
    browser.find_element("css selector", "#search button").click()
    until(lambda: text_of(browser, "found"))
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    assert browser.execute_script(CONTRAST) == []
    if folder := os.environ.get("RAYREID_SCREENSHOTS"):
        whole = {"captureBeyondViewport": True}
        shown = browser.execute_cdp_cmd("Page.captureScreenshot", whole)["data"]
        picture = Image.open(io.BytesIO(base64.b64decode(shown))).convert("RGB")
        Path(folder).mkdir(parents=True, exist_ok=True)
        picture.quantize(128).save(Path(folder) / f"page-{name}.png", optimize=True)
