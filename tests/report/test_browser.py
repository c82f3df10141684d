"""The report in a real browser: copying, phone and paper, no error and no request."""

from __future__ import annotations

import shutil

import pytest
from toys.results import WORDS, toy_result, with_sizes

from autopeft import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report.report_html(with_sizes(toy_result()), words=WORDS), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(browser, address):
    """The page at 1400 pixels; what the browser complains of or asks for fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page, seen = context.new_page(), []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url) if request.url != address else None)
    page.goto(address)
    yield page
    context.close()
    assert seen == []


def test_code_is_copied_by_its_button(page):
    page.get_by_role("button").first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("pre").first.inner_text().strip() and "PeftModel" in copied


@pytest.mark.parametrize("width", [1400, 768, 390, 320])
def test_nothing_is_wider_than_the_screen_or_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = """() => [...document.querySelectorAll("td, th, pre, figure, dd")].filter((box) => {
        const style = getComputedStyle(box);
        return style.overflowX === "visible" && box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0;
    }).map((box) => box.outerHTML.slice(0, 80))"""
    assert page.evaluate(cut) == []


def test_details_open_on_paper(page):
    table = page.locator("details table").first
    assert not table.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert table.is_visible()
