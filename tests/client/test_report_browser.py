"""The report as a browser shows it: on a desk, on a phone, at night and on paper.

A browser that is installed is driven over a pipe (the Chrome DevTools protocol), so no driver and no port is needed.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trend_client.report import ReportData, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None or sys.platform == "win32", reason="no Chromium or Chrome here to open the report with"
)

PHONE, DESK = 390, 1280
WAIT_SECONDS = 60


class Browser:
    """One page of a headless browser."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()

        def hand_over() -> None:  # the browser reads from descriptor 3 and writes to descriptor 4
            high = [os.dup2(to_read, 98), os.dup2(to_write, 99)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        self._process = subprocess.Popen(
            [BROWSER, *options, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._session, self._number, self._rest = "", 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (heard := self._hear()).get("id") != self._number:
            self.events.append(heard)
        assert "error" not in heard, heard
        result: dict[str, Any] = heard["result"]
        return result

    def _hear(self) -> dict[str, Any]:
        until = time.monotonic() + WAIT_SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._in, 1 << 16) if ready else b""
            assert data, "the browser says nothing"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(message)
        return heard

    def open(self, path: Path, width: int, *, dark: bool = False) -> None:
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width == PHONE
        )
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._hear())

    def run(self, script: str) -> Any:
        """What a script returns. Not subject to the page's policy, which lets no script of its own run."""
        found = self.call("Runtime.evaluate", expression=f"(() => {{ {script} }})()", returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module", params=["en", "zh"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_full_report: Any) -> Path:
    data: ReportData = make_full_report()
    return write_report(tmp_path_factory.mktemp("report") / "report.html", replace(data, language=request.param))


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_goes_wrong_and_nothing_is_asked_for(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    kinds = [event["method"] for event in browser.events if "method" in event]
    assert "Runtime.exceptionThrown" not in kinds
    said = [event["params"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert said == []
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked == [page.as_uri()]


@pytest.mark.parametrize("width", [320, PHONE, 768, DESK])
def test_nothing_is_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width
    outside = browser.run(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter(one => !one.closest('.scroll, nav') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.tagName + '.' + one.className)"
    )
    assert outside == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_link_of_the_navigation_lands(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    links = browser.run("return [...document.querySelectorAll('nav a, a.skip')].map(one => one.getAttribute('href'))")
    assert len(links) >= 8
    sections = browser.run("return [...document.querySelectorAll('main section')].map(one => '#' + one.id)")
    assert set(sections) <= set(links), "every part can be reached"
    for link in links:
        top = browser.run(
            "document.documentElement.style.scrollBehavior = 'auto'; scrollTo(0, 0);"
            f"document.querySelector('a[href=\"{link}\"]').click();"
            f"return document.querySelector('{link}')?.getBoundingClientRect().top ?? null"
        )
        assert browser.run("return location.hash") == link
        assert top is not None
        assert -1 <= top < 844, f"{link} is in sight"


def test_a_phone_has_the_narrow_charts(browser: Browser, page: Path) -> None:
    shown = (
        "return [...document.querySelectorAll('figure svg')].filter(one => one.getBoundingClientRect().width > 0)"
        ".map(one => one.className.baseVal)"
    )
    browser.open(page, PHONE)
    assert set(browser.run(shown)) == {"narrow"}
    browser.open(page, DESK)
    assert set(browser.run(shown)) == {"wide"}


# Relative luminance and contrast: Web Content Accessibility Guidelines 2.2, 1.4.3.
CONTRAST = """
const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = rgb => { const [r, g, b] = rgb.map(v => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b; };
const parse = text => text.match(/[\\d.]+/g).map(Number);
const ground = one => { for (; one; one = one.parentElement) { const c = parse(getComputedStyle(one).backgroundColor);
  if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
const weak = [];
for (const one of document.querySelectorAll('body *')) {
  if (![...one.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !one.getClientRects().length) continue;
  const style = getComputedStyle(one), ink = parse(one.tagName === 'text' ? style.fill : style.color);
  const [a, b] = [light(ink.slice(0, 3)), light(ground(one))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) weak.push(one.tagName + '.' + (one.className.baseVal ?? one.className) + ' ' + ratio.toFixed(2));
}
return [...new Set(weak)];
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_on_its_ground(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, DESK, dark=dark)
    assert browser.run(CONTRAST) == []


def test_what_can_be_scrolled_can_be_reached_by_keyboard_and_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    nameless = browser.run(
        "return [...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1 &&"
        "['auto', 'scroll'].includes(getComputedStyle(one).overflowX) && !(one.tabIndex === 0 && one.ariaLabel))"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    levels = browser.run("return [...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_it_prints_on_a_few_pages_without_the_navigation(browser: Browser, page: Path) -> None:
    browser.open(page, DESK, dark=True)
    printed = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 14
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.body).color") == "rgb(27, 39, 51)"
    browser.call("Emulation.setEmulatedMedia", media="")
