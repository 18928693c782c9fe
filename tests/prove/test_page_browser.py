"""The page in a browser: what its script finds, opens and prints, and that nothing is wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import BINARY, Page, chromium
from ledgers import small

from monitorgen.prove.ledger import Proof
from monitorgen.prove.merge import merge
from monitorgen.prove.page import page

# With xdist's loadgroup, one worker starts one browser for all.
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if BINARY is None:
        pytest.skip("no Chromium on this machine")
    with chromium() as page_:
        try:
            page_.call("Browser.getVersion")
        except (AssertionError, OSError) as error:
            pytest.skip(f"Chromium does not start here: {error}")
        yield page_


@pytest.fixture
def opened(browser: Page, tmp_path: Path) -> Page:
    """A browser that shows the small ledger."""
    path = tmp_path / "ledger.html"
    path.write_text(page(small()), encoding="utf-8")
    browser.requested.clear()
    browser.complaints.clear()
    browser.open(path)
    return browser


SHOWN = "[...document.querySelectorAll('details.item:not([hidden]) .name')].map(n => n.textContent).join()"
SET = "(() => {{ const f = document.querySelector('form.tools'); f.elements.{}.value = {!r};" \
    " f.dispatchEvent(new Event('input')); }})()"  # fmt: skip
NAMES = "model:ttft:p90,TTFTHigh/warning,Queue,vllm"


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Page) -> None:
    assert opened.ask("document.querySelector('.found').textContent") == "4 items"
    assert len(opened.requested) == 1
    assert opened.requested[0].startswith("file://")
    assert opened.complaints == []


@pytest.mark.parametrize(
    ("settings_", "shown"),
    [
        ({}, NAMES),
        ({"kind": "alert"}, "TTFTHigh/warning"),
        ({"state": "unproven"}, "Queue,vllm"),
        ({"state": "unproven", "level": "static"}, ""),
        ({"state": "failed", "level": "live"}, "TTFTHigh/warning"),
        ({"state": "proven", "level": "live"}, "model:ttft:p90"),
        ({"level": "simulated"}, "model:ttft:p90,TTFTHigh/warning,Queue"),
        ({"text": "not EXPORTED"}, "Queue"),
        ({"text": "ttft seconds"}, "model:ttft:p90"),
        ({"text": "nowhere"}, ""),
    ],
)
def test_items_are_found(opened: Page, settings_: dict[str, str], shown: str) -> None:
    for name, value in settings_.items():
        opened.ask(SET.format(name, value))
    assert opened.ask(SHOWN) == shown
    assert opened.ask("document.querySelector('.nothing').hidden") is bool(shown)
    opened.ask("document.querySelector('button[type=reset]').click()")
    assert opened.ask(f"new Promise(done => setTimeout(() => done({SHOWN})))") == NAMES


def test_what_is_closed_opens_for_a_link_a_button_and_the_printer(opened: Page, tmp_path: Path) -> None:
    count = "document.querySelectorAll('details.item[open]').length"
    assert opened.ask(count) == 0
    opened.ask(SET.format("kind", "alert"))
    opened.ask("document.querySelector('.reason a').click()")
    assert opened.ask(f"new Promise(done => setTimeout(() => done({count}), 50))") == 1
    assert opened.ask(SHOWN) == NAMES  # the filter hid what the link leads to
    opened.ask("document.querySelector('button[name=open]').click()")
    assert opened.ask(count) == 4
    opened.ask("document.querySelector('button[name=open]').click()")
    closed = "document.querySelectorAll('details:not([open])').length"
    opened.ask(f"window.addEventListener('beforeprint', () => {{ window.closedThen = {closed} }})")
    opened.printed(tmp_path / "ledger.pdf")
    assert (tmp_path / "ledger.pdf").read_bytes().startswith(b"%PDF")
    assert opened.ask("window.closedThen") == 0
    assert opened.ask(count) == 0


def test_a_number_of_the_summary_shows_its_items(opened: Page) -> None:
    opened.ask("document.querySelector('.summary .total a.unproven').click()")
    assert opened.ask(SHOWN) == "Queue,vllm"


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_is_wider_than_the_window(browser: Page, tmp_path: Path, width: int, dark: bool) -> None:
    long = "x" * 300
    ledger = merge([small(), small()])
    ledger.items += (f"record/{long}", f"alert/{long}/warning")
    ledger.dormant[long] = long
    ledger.notes.append(long)
    ledger.runs = [{"started": "now", long: long}, {"sources": long}]
    ledger.add(
        [Proof(ledger.items[-1], "live", long, False, long, long, f"exp: {long}, got: {long}", "", "vllm")]
    )
    ledger.unproven(ledger.items[-2], "live", long)
    path = tmp_path / "ledger.html"
    path.write_text(page(ledger), encoding="utf-8")
    browser.open(path, width, 800, dark=dark)
    browser.ask("document.querySelector('button[name=open]').click()")
    wide = f"[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > {width})"
    assert browser.ask(f"{wide}.slice(0, 5).map(e => e.outerHTML.slice(0, 99))") == []
    assert browser.ask("document.documentElement.scrollWidth") <= width
    light, dark_ = "rgb(252, 252, 250)", "rgb(21, 23, 26)"
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == (dark_ if dark else light)
