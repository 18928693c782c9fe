"""Ledgers for tests: a small one that has every state, and a strategy for any."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from monitorgen.prove.ledger import KINDS, LEVELS, About, Ledger, Proof

RULE, ALERT, PANEL, JOB = (
    "record/model:ttft:p90",
    "alert/TTFTHigh/warning",
    "panel/board/Queue",
    "scrape/vllm",
)
QUERY = 'sum(rate(vllm:x{job="a"}[5m])) < 3 and "&" != ""'
STARTED = "2026-01-31T12:00:00Z"
POINTS = ((1000.0, 0.5), (1002.0, math.nan), (1004.0, 0.25), (1006.0, 0.75), (1008.0, 0.6))


def small() -> Ledger:
    """Four items: live, the rule is proven, the alert failed, the panel and the job are unproven."""
    ledger = Ledger(
        "chat",
        (RULE, ALERT, PANEL, JOB),
        beyond={JOB: ("simulated",)},
        dormant={"errors": "no engine exports a family for it"},
        notes=["promtool 2.42 was not found"],
        run={"prometheus": "3.5.3", "started": STARTED},
    )
    ledger.about = {
        RULE: About(
            "ttft", "seconds", "Time to the first token.", "histogram_quantile(0.9, x)", "chat.yaml:3:1"
        ),
        ALERT: About("ttft", "", "First tokens come late.", "model:ttft:p90 > 0.6", "chat.yaml:9:1"),
        PANEL: About("queue", "short", "Requests that wait.", QUERY, "chat.yaml:20:1"),
    }
    ledger.add(Proof(item, "static", "no check complains", True, "70 checks") for item in ledger.items)
    for version in ("2.42.0", "3.5.3"):
        source = f"promtool {version}"
        ledger.add(
            Proof(item, "simulated", "its value", True, source, QUERY, "as expected", "20m")
            for item in (RULE, ALERT, PANEL)
        )
    ledger.add(
        [
            Proof(
                RULE, "live", "has values", True, "Prometheus 3.5.3", "model:ttft:p90", "2 series, last 0.6",
                STARTED, "replayed", 2, 0.6, POINTS,
            ),
            Proof(ALERT, "live", "silent while calm", True, "Prometheus 3.5.3", kind="scenario"),
            Proof(
                ALERT, "live", "labels and rendered annotations", False, "Prometheus 3.5.3", "ALERTS",
                "exp: {a=\"1\"}, got: {a=\"2\"}", STARTED, "scenario",
            ),
        ]
    )  # fmt: skip
    ledger.unproven(PANEL, "live", "vllm:x is not exported by this server")
    ledger.unproven(JOB, "live", "no vllm was there to scrape")
    return ledger


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
# Surrogates as well: whatever a Python text can hold must not break a report.
TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(
        ["</script><script>alert(1)</script>", "]]>", "<!--", "&amp;", "\x00\x1b[31m", "\ud800", "a\r\nb"]
    ),
)
NAMES = st.one_of(
    TEXTS,
    st.sampled_from(["record/a", "alert/A/critical", "panel/b/P</details>", "scrape/<b>", "alert/", "/"]),
)


def proofs(items: list[str]) -> st.SearchStrategy[Proof]:
    """Any proof of one of the items."""
    return st.builds(
        Proof,
        item=st.sampled_from(items),
        level=st.sampled_from(LEVELS),
        claim=TEXTS,
        holds=st.booleans(),
        source=TEXTS,
        asked=TEXTS,
        answer=TEXTS,
        when=TEXTS,
        kind=st.sampled_from(["", *KINDS]),
        series=st.integers(0, 10**6),
        value=st.none() | NUMBERS,
        points=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(tuple),
    )


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Any ledger."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    ledger = Ledger(
        draw(TEXTS),
        tuple(names),
        dormant=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        notes=draw(st.lists(TEXTS, max_size=2)),
        run=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        runs=draw(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2)),
    )
    ledger.add(draw(st.lists(proofs(names), max_size=8)))
    for name in names:
        level = draw(st.none() | st.sampled_from(LEVELS))
        if level:
            ledger.unproven(name, level, draw(TEXTS))
        beyond = draw(st.lists(st.sampled_from(LEVELS), max_size=1))
        if beyond:
            ledger.beyond[name] = tuple(beyond)
        about = draw(st.builds(About, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS))
        if about != About():
            ledger.about[name] = about
    return ledger
