"""The built web site: pages, links, and every page in a headless Chromium without the net.

Not part of `make test`: `make site-test` builds the site and runs this.
"""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest

from lib.results.scoreboard import PATH
from lib.runs.places import ROOT

pytestmark = pytest.mark.site

SITE = ROOT / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # nothing but this machine can be reached
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
WIDE, NARROW = 1200, 390
SHOWN = (
    "index.html",
    "notebooks/03_iterative_refinement.html",
    "claims/exp05-growth-collapses.html",
    "claims/index.html",
    "claims/own.html",
    "pareto.html",
)
LEAST_CONTRAST = 4.5  # WCAG AA for text


@pytest.fixture(scope="module")
def claims() -> pd.DataFrame:
    return pd.read_csv(PATH)


@pytest.fixture(scope="module")
def pages() -> dict[str, "object"]:
    """Every page by name, parsed."""
    bs4 = pytest.importorskip("bs4", reason="requirements-site.txt is not installed")
    assert (SITE / "index.html").is_file(), "the site is not built; run `make site`"
    return {
        path.relative_to(SITE).as_posix(): bs4.BeautifulSoup(path.read_bytes(), "html.parser")
        for path in sorted(SITE.rglob("*.html"))
        if "_static" not in path.parts
    }


def test_every_notebook_and_claim_has_a_page_with_content(pages, claims):
    made = claims["kind"].isin(("reported", "transfer"))
    wanted = [f"claims/{name}.html" for name in claims.loc[made, "id"].unique()]
    wanted += [f"notebooks/{p.stem}.html" for p in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")]
    wanted += ["index.html", "how.html", "pareto.html", "claims/index.html", "claims/own.html"]
    wanted += ["ja.html"] * (ROOT / "README.ja.md").is_file()
    assert sorted(set(wanted) - pages.keys()) == []
    for name in wanted:
        text = pages[name].find("article").get_text(" ", strip=True)
        assert len(text) > 400, f"{name} is nearly empty"


def test_a_claim_page_tells_all_its_rows(pages, claims):
    for name in claims.loc[claims["kind"] == "reported", "id"].unique():
        text = pages[f"claims/{name}.html"].find("article").get_text(" ", strip=True)
        assert re.search(r"lib/\w+/experiments/e\d\d_\w+\.py, line \d+", text), name
        rows = claims[(claims["id"] == name) | (claims["parent"] == name)]
        for row in rows.itertuples():
            assert row.verdict in text, (name, row.verdict)
            assert " ".join(row.statement.split()[:4]) in text, (name, row.id)


def test_own_findings_and_explanations_are_reached_from_the_table(pages, claims):
    table = pages["claims/index.html"].find(id="claims-table")
    assert len(table.tbody.find_all("tr")) == len(claims)


def test_no_link_inside_the_site_is_broken(pages):
    ids = {
        name: {tag["id"] for tag in page.find_all(id=True)} | {"", "top"}
        for name, page in pages.items()
    }
    broken = []
    for name, page in pages.items():
        for tag in page.find_all(("a", "img", "link", "script")):
            target = tag.get("href") or tag.get("src") or ""
            if not target or re.match(r"[a-z]+:|//", target):
                continue
            address, part = urldefrag(target)
            address = address.partition("?")[0]
            path = (SITE / name).parent / unquote(address) if address else SITE / name
            if not path.is_file():
                broken.append(f"{name}: {target}")
            elif part and path.suffix == ".html":
                other = path.resolve().relative_to(SITE.resolve()).as_posix()
                if unquote(part) not in ids[other]:
                    broken.append(f"{name}: {target} (no such place)")
    assert broken == []


def test_nothing_is_loaded_from_the_net(pages):
    outside = []
    for name, page in pages.items():
        for tag in page.find_all(("img", "script", "iframe", "source", "video")):
            if re.match(r"(https?:)?//", tag.get("src") or ""):
                outside.append(f"{name}: {tag['src']}")
        for tag in page.find_all("link"):
            loaded = {"stylesheet", "preload", "icon", "preconnect"} & set(tag.get("rel", ()))
            if loaded and re.match(r"(https?:)?//", tag["href"]):
                outside.append(f"{name}: {tag['href']}")
    for path in SITE.rglob("*.css"):
        for address in re.findall(r"url\(\s*['\"]?(https?:[^)]*)", path.read_text("utf-8")):
            outside.append(f"{path.name}: {address}")
    assert outside == []


def test_pages_name_no_folder_of_the_machine(pages):
    for name, page in pages.items():
        assert str(ROOT) not in str(page), name


# --------------------------------------------------------------------------- in a browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator["_Browser"]:
    pytest.importorskip("selenium", reason="requirements-site.txt is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    folder = os.environ.get("CHROMEWEBDRIVER")
    driver = shutil.which("chromedriver", path=folder) if folder else shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with its driver (apt-get install chromium chromium-driver)")
    handler = functools.partial(_Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = _Browser(binary, driver, server.server_port, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.driver.quit()
    server.shutdown()


class _Browser:
    """A Chromium with an empty profile that reaches the built site only."""

    def __init__(self, binary: str, driver: str, port: int, profile: Path):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(60)
        self.root = f"http://127.0.0.1:{port}/"

    def show(self, page: str, width: int, dark: bool = False) -> None:
        """Open a page with a window of a width, in the light or the dark look."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        self.driver.get(self.root + page)

    def js(self, code: str, *given: object) -> object:
        return self.driver.execute_script(code, *given)

    def complaints(self) -> list[str]:
        """Errors in the console and requests to elsewhere since the last call."""
        found = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith((self.root, "data:", "blob:", "chrome")):
                    found.append(f"asks for {address}")
        return found


OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# lazy pictures are asked for first: those far below the window would count as not loaded
PICTURES = """
const done = arguments[arguments.length - 1];
const all = [...document.querySelectorAll('article img')];
all.forEach((img) => { img.loading = 'eager'; });
Promise.all(all.map((img) => img.decode().then(() => '', () => img.src)))
  .then((bad) => done(bad.filter(Boolean)));
"""
# words whose colour is too near that of what lies behind them
PALE = """
const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
const lum = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const behind = (node) => {
  for (let e = node; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c;
  }
  return [255, 255, 255];
};
const found = new Set();
for (const e of document.querySelectorAll(
    'article p, article li, article td, article th, article h1, article h2, article a:not(.headerlink), .verdict, svg text')) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const [a, b] = [lum(parse(e.closest('svg') ? style.fill : style.color)), lum(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < arguments[0]) found.add(`${e.tagName}.${e.className.baseVal ?? e.className} ${ratio.toFixed(1)} ${e.textContent.slice(0, 30)}`);
}
return [...found].slice(0, 5);
"""  # noqa: E501


def test_every_page_opens_without_errors_on_a_narrow_dark_screen(browser, pages):
    browser.driver.set_script_timeout(60)
    wrong = {}
    for name in pages:
        browser.show(name, NARROW, dark=True)
        over = browser.js(OVERFLOW)
        found = [f"{over} pixels too wide"] * (over > 0)
        found += [f"picture {p}" for p in browser.driver.execute_async_script(PICTURES)]
        found += browser.complaints()
        if found:
            wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", SHOWN)
def test_words_stand_out_from_their_ground(browser, page, dark):
    browser.show(page, WIDE, dark)
    assert browser.js("return document.documentElement.dataset.theme") == (
        "dark" if dark else "light"
    )
    assert browser.js(OVERFLOW) <= 0
    assert browser.js(PALE, LEAST_CONTRAST) == []


def test_the_table_is_filtered_and_sorted(browser, claims):
    browser.show("claims/index.html", WIDE)
    seen = "return [...document.querySelectorAll('#claims-table tbody tr:not([hidden])')]"
    assert len(browser.js(seen)) == len(claims)
    choose = """
    const label = [...document.querySelectorAll('#claims-filter label')]
      .find((l) => l.firstChild.textContent === arguments[0]);
    const control = label.querySelector('select, input');
    control.value = [...(control.options ?? [])].find((o) => o.value.endsWith(arguments[1]))?.value
      ?? arguments[1];
    control.dispatchEvent(new Event('input'));
    """
    browser.js(choose, "verdict", "reversed")
    assert len(browser.js(seen)) == (claims["verdict"] == "reversed").sum() > 0
    browser.js(choose, "kind", "transfer")
    both = (claims["verdict"] == "reversed") & (claims["kind"] == "transfer")
    assert len(browser.js(seen)) == both.sum()
    browser.driver.refresh()  # the address holds the filters
    assert len(browser.js(seen)) == both.sum()
    browser.js("document.querySelector('#claims-filter button').click()")
    browser.js(
        "[...document.querySelectorAll('#claims-table th button')]"
        ".find((b) => b.textContent === 'ours').click()"
    )
    ours = browser.js(
        "return [...document.querySelectorAll('#claims-table tbody tr')]"
        ".map((r) => r.querySelector('[data-label=ours]').dataset.sort).filter(Boolean).map(Number)"
    )
    assert ours == sorted(ours) and len(ours) == claims["ours"].notna().sum()
    assert browser.complaints() == []


def test_the_cascade_picture_is_led_by_keys(browser):
    from selenium.webdriver.common.keys import Keys

    browser.show("pareto.html", NARROW, dark=True)
    caption = "return document.querySelector('.pareto-caption').textContent"
    dots = "return [...document.querySelectorAll('svg.pareto .dot')]"
    count = len(browser.js(dots))
    assert count > 3
    told = {browser.js(caption)}
    browser.js(dots + "[0].focus()")
    for _ in range(count - 1):
        browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        told.add(browser.js(caption))
    assert len(told) == count
    assert (
        len(browser.js("return document.querySelectorAll('svg.pareto .dot[tabindex=\"0\"]')")) == 1
    )
    rules = browser.js(
        "return [...document.querySelector('#pareto select').options].map(o => o.value)"
    )
    for rule in rules:
        browser.js(
            "const s = document.querySelector('#pareto select'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input'))",
            rule,
        )
        assert browser.js(caption).startswith(browser.js(
            "return document.querySelector('#pareto select').selectedOptions[0].textContent"
        ))  # fmt: skip
    assert browser.complaints() == []


def test_search_works_without_the_net(browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.show("search.html?q=refinement", WIDE)
    WebDriverWait(browser.driver, 30).until(
        lambda _: browser.js("return document.querySelectorAll('#search-results li').length") > 3
    )
    assert browser.complaints() == []
