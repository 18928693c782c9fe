"""The ledger as a page: complete, escaped, alone in the world, readable."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from ledgers import QUERY, RULE, ledgers, small

from monitorgen.prove.ledger import About, Ledger, Proof
from monitorgen.prove.merge import merge
from monitorgen.prove.page import page, verdict

VOID = {"meta", "input", "link", "br", "img", "hr", "base"}
LOADS = {"src", "srcset", "action", "formaction", "data", "poster", "background", "ping", "style"}


class Reader(HTMLParser):
    """Reads a page strictly: unbalanced tags, repeated ids, handlers and anything loaded are complaints."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.classes: list[str] = []
        self.complaints: list[str] = []
        self.texts: list[str] = []
        self.codes: dict[str, list[str]] = {"script": [], "style": []}
        self.policy = ""
        self.feed(text)
        self.close()
        self.complaints += [f"{tag} is never closed" for tag in self.open]
        self.complaints += [f"id {one} again" for one in set(self.ids) if self.ids.count(one) > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.complaints.append(f"</{tag}> in {self.open[-3:]}")

    def handle_data(self, data: str) -> None:
        within = self.open[-1] if self.open else ""
        self.codes.get(within, self.texts).append(data)

    def _attributes(self, tag: str, given: dict[str, str | None]) -> None:
        for name, value in given.items():
            if name in LOADS or name.startswith("on"):
                self.complaints.append(f"{tag} has {name}={value!r}")
            if name in ("href", "xlink:href") and not (value or "").startswith("#"):
                self.complaints.append(f"{tag} leads to {value!r}")
        if tag in ("iframe", "object", "embed", "base", "link", "img"):
            self.complaints.append(f"there is a {tag}")
        if given.get("id"):
            self.ids.append(given["id"] or "")
        if "href" in given:
            self.links.append((given["href"] or "").removeprefix("#"))
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given.get("content") or ""
        self.classes += (given.get("class") or "").split()

    @property
    def text(self) -> str:
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.texts).split())


def read(ledger: Ledger) -> Reader:
    reader = Reader(page(ledger))
    assert reader.complaints == []
    assert set(reader.links) <= set(reader.ids)
    return reader


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("<p><b></p>", "</p> in"),
        ("<p>", "p is never closed"),
        ("<p id=a></p><b id=a></b>", "id a again"),
        ("<a href='https://x.y'></a>", "leads to"),
        ("<svg><use href='x.svg#a'/></svg>", "leads to"),
        ("<p onclick='x()'></p>", "has onclick"),
        ("<script src='x.js'></script>", "has src"),
        ("<img src='a.png'>", "there is a img"),
    ],
)
def test_the_reader_sees_what_it_is_for(wrong: str, said: str) -> None:
    assert any(said in one for one in Reader(wrong).complaints)


@settings(max_examples=60)
@given(ledgers())
def test_any_ledger_makes_a_whole_page(ledger: Ledger) -> None:
    text = page(ledger)
    text.encode()
    reader = Reader(text)
    assert reader.complaints == []
    # One script and one style, which are ours: no text of a ledger became another.
    assert [len(codes) for codes in reader.codes.values()] == [1, 1]
    assert reader.classes.count("item") == len(ledger.items)


def test_hostile_texts_are_only_texts() -> None:
    hostile = (
        "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='alert(3)' [[ 7 * 7 ]]"
    )
    ledger = Ledger(
        hostile, (f"record/{hostile}", f"{hostile}/x"), notes=[hostile], dormant={hostile: hostile}
    )
    ledger.run = {hostile: hostile}
    ledger.about = {item: About(hostile, hostile, hostile, hostile, hostile) for item in ledger.items}
    for item in ledger.items:
        points = ((0.0, 1.0), (1.0, 2.0))
        for holds in (True, False):
            ledger.add(
                [
                    Proof(
                        item,
                        "live",
                        hostile,
                        holds,
                        hostile,
                        hostile,
                        hostile,
                        hostile,
                        "vllm",
                        1,
                        1.0,
                        points,
                    )
                ]
            )
        ledger.unproven(item, "static", hostile)
    reader = read(ledger)
    assert reader.text.count(hostile) > 20
    assert [len(codes) for codes in reader.codes.values()] == [1, 1]


def test_the_policy_lets_nothing_run_but_what_is_in_the_page() -> None:
    reader = read(small())
    digests = {
        name: base64.b64encode(hashlib.sha256("".join(codes).encode()).digest()).decode()
        for name, codes in reader.codes.items()
    }
    assert set(reader.policy.split("; ")) == {
        "default-src 'none'",
        f"style-src 'sha256-{digests['style']}'",
        f"script-src 'sha256-{digests['script']}'",
    }
    for code in (*reader.codes["style"], *reader.codes["script"]):
        assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttpRequest|import\(", code)


def test_the_page_says_everything_without_a_script() -> None:
    text = page(small())
    assert "hidden" not in re.findall(r"<(?:details|section)[^>]*>", text)
    assert all(" open" in tag for tag in re.findall(r"<details[^>]*>", text))
    said = Reader(text).text
    for one in (
        "Ledger of chat",
        "1 item failed. Proven: all 4 statically, all 3 in simulated time, 1 of 4 live.",
        "2026-01-31 12:00:00 UTC",
        "prometheus 3.5.3",
        "vllm:x is not exported by this server",
        "no vllm was there to scrape",
        "errors no engine exports a family for it",
        "promtool 2.42 was not found",
        QUERY,
        'expected {a="1"}',
        'got {a="2"}',
        "250 ms to 750 ms, last 600 ms, over 8 s",
        "600 ms 2 series",
        "promtool 2.42.0, 3.5.3",
        "chat.yaml:3:1",
        "Time to the first token.",
        "unit seconds",
        "recordings of a real server, played back",
    ):
        assert one in said, one


def test_numbers_of_the_summary_are_those_of_the_ledger() -> None:
    text = page(small())
    table = text[text.index('<table class="summary">') : text.index("</table>")]
    rows = [Reader(row).text for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
    assert rows == [
        "items count static simulated live",
        "recording rules 1 1 of 1 1 of 1 1 of 1",
        "alerts 1 1 of 1 1 of 1 0 of 1 1 failed",
        "panels 1 1 of 1 1 of 1 0 of 1 1 unproven",
        "scrape jobs 1 1 of 1 – does not apply 0 of 1 1 unproven",
        "all items 4 4 of 4 3 of 3 1 of 4 1 failed 2 unproven",
    ]
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" width="([\d.]+)"', table)
    assert bars[-3:] == [
        ("proven", "0.00", "25.00"),
        ("unproven", "25.00", "50.00"),
        ("failed", "75.00", "25.00"),
    ]


def test_the_steps_of_an_alert_are_shown_as_they_went() -> None:
    text = page(small())
    steps = re.search(r'<ol class="steps".*?</ol>', text, re.DOTALL)
    assert steps
    assert [Reader(step).text for step in re.findall("<li>.*?</li>", steps[0], re.DOTALL)] == [
        "silent while calm : proven",
        "pending, then firing : not seen",
        "right labels and texts : failed 12:00:00",
        "delivered : not seen",
        "nobody else named : not seen",
        "resolved : not seen",
    ]
    assert "1 of 6 steps" in Reader(text).text


def test_counts_of_a_heatmap_are_not_in_the_unit_of_its_edges() -> None:
    ledger = Ledger("b", ("panel/b/Spread", "panel/b/Quantile"))
    buckets = "sum by (job, le) (increase(x_bucket[5m]))"
    for item, query in zip(ledger.items, (buckets, f"histogram_quantile(0.9, {buckets})"), strict=True):
        ledger.about[item] = About("", "s")
        ledger.add([Proof(item, "live", "has values", True, "s", query, series=2, value=143.5)])
    said = read(ledger).text
    assert f"{buckets} 144 2 series" in said
    assert f"histogram_quantile(0.9, {buckets}) 2.39 min 2 series" in said


def test_each_run_of_a_merged_ledger_has_its_facts() -> None:
    one, other = small(), small()
    other.run = {"prometheus": "2.42.0", "gpu": "H100"}
    said = read(merge([one, other])).text
    assert "run 1 of 2" in said
    assert "run 2 of 2 prometheus 2.42.0 gpu H100" in said


def test_the_verdict_says_what_it_comes_to() -> None:
    told = "1 item failed. Proven: all 4 statically, all 3 in simulated time, 1 of 4 live."
    assert verdict(small()) == told
    assert verdict(Ledger("b", (RULE,))) == "Nothing failed. Nothing is proven."


def test_the_same_ledger_gives_the_same_bytes() -> None:
    assert page(small()) == page(Ledger.from_json(small().to_json()))


def big() -> Ledger:
    """67 items with 2,300 proofs, as the optimized bundle has them: three promtools ask the same of each."""
    items = tuple(f"panel/monitorgen-optimized/Panel number {i}" for i in range(67))
    ledger = Ledger("big", items)
    query = (
        "round(1e+07 * (sum by (model_name) (rate(vllm:generation_tokens_total{{job=~'.+',n='{}'}}[5m]))))"
    )
    for i, item in enumerate(items):
        ledger.about[item] = About(
            f"signal{i % 20}", "seconds", "What it is. " * 8, query.format(i), "p.yaml:3:1"
        )
        for version, number in ((version, number) for version in "abc" for number in range(11)):
            ledger.add(
                [
                    Proof(
                        item,
                        "simulated",
                        f"claim {number % 4}",
                        True,
                        version,
                        query.format(number),
                        "as expected",
                        "5m",
                    )
                ]
            )
        points = tuple((1.8e9 + 2 * j, (i * j) % 7 + 0.5) for j in range(300))
        ledger.add(
            [Proof(item, "live", "has values", True, "s", query.format(i), "", "", "vllm", 2, 0.5, points)]
            * 2
        )
    return ledger


def test_a_large_ledger_makes_a_small_page_soon() -> None:
    ledger = big()
    assert len(ledger.proofs) > 2300
    began = time.process_time()
    text = page(ledger)
    assert time.process_time() - began < 3
    assert len(text.encode()) < 1_500_000
    assert text.count(">a; b; c<") == 67 * 4  # equal claims of several programs are told once


# Colours


def colours(style: str) -> list[dict[str, str]]:
    """Each set of colours: the light one, then the dark one and the printer's laid over it."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    sets = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks]
    return [{**sets[0], **found} for found in sets]


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    digits = colour.removeprefix("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    parts = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2, from 1 to 21."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_text_can_be_read_on_its_ground() -> None:
    sets = colours("".join(Reader(page(small())).codes["style"]))
    assert len(sets) == 3
    for found in sets:
        for name in ("ink", "soft", "link", "proven", "unproven", "failed"):
            for ground in ("paper", "panel"):
                assert contrast(found[name], found[ground]) >= 4.5, (found[name], found[ground])
