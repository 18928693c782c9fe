"""The ledger as one HTML page that needs nothing else: no network, and no script to be read or printed.

The page's own policy lets only its own script and style run, known by their digests; every text of the ledger
is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, Template
from markupsafe import Markup

from monitorgen.brackets import bracketed
from monitorgen.prove import views
from monitorgen.prove.ledger import LEVELS, About, Ledger, Level, Proof
from monitorgen.prove.plot import Plot, format_value, plot, unit_name
from monitorgen.prove.views import ALERT_STEPS, Claim, claims_of, kind_of

LEVEL_WORDS: dict[Level, tuple[str, str]] = {
    "static": ("static", "no check complains of what is written"),
    "simulated": ("simulated", "Prometheus computed it over made-up samples, in simulated time"),
    "live": ("live", "it was seen on metrics that were scraped while the run lasted"),
}
STATE_WORDS = ("failed", "unproven", "proven")
SHORT_KINDS = {"record": "rule", "alert": "alert", "panel": "panel", "scrape": "scrape"}
FACTS = ("started", "seconds", "prometheus", "alertmanager", "time_scale", "sources")
ELSEWHERE = "several signals, or none"  # the group of items that no signal is named for
_QUIET = {"as expected", "no complaint", "no findings"}  # what promtool and the checks say of what holds
_COUNTED = re.compile(r"\d+ series, (last )?[-+.\w]+$")  # an answer that value and series say already
_BUCKETS = re.compile(r"\bby\s*\([^)]*\ble\b")
_ROW, _LARGE = (88, 20), (300, 56)  # pixels of the plots in a row and beside its query
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def page(ledger: Ledger) -> str:
    """The whole page. It depends on the ledger alone: the same ledger gives the same bytes."""
    style, script = _asset("ledger.css"), _asset("ledger.js")
    text = _template().render(
        ledger=ledger,
        levels=[(level, *LEVEL_WORDS[level]) for level in LEVELS],
        states=STATE_WORDS,
        kinds=[(kind, views.KIND_WORDS.get(kind, kind)) for kind in views.kinds_of(ledger)],
        verdict=verdict(ledger),
        started=_started(ledger),
        runs=_runs(ledger),
        summary=list(_summary(ledger)),
        sources=list(_sources(ledger)),
        proven_live=ledger.counts("live")["proven"],
        failures=list(_failures(ledger)),
        unproven=[(level, *LEVEL_WORDS[level], list(_unproven(ledger, level))) for level in LEVELS],
        sections=_sections(ledger),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}",
    )
    return _UNSHOWABLE.sub("\ufffd", text)


def verdict(ledger: Ledger) -> str:
    """What the ledger comes to, in a sentence or two."""
    failed = {proof.item for proof in ledger.failed}
    parts = []
    for level, words in (("static", "statically"), ("simulated", "in simulated time"), ("live", "live")):
        counts = ledger.counts(level)  # type: ignore[arg-type]
        if counts["proven"]:
            share = "all" if counts["proven"] == counts["items"] else f"{counts['proven']} of"
            parts.append(f"{share} {counts['items']} {words}")
    proven = f"Proven: {', '.join(parts)}." if parts else "Nothing is proven."
    if failed:
        return f"{len(failed)} {'item' if len(failed) == 1 else 'items'} failed. {proven}"
    return f"Nothing failed. {proven}"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = bracketed(Environment, autoescape=True)
    return environment.from_string(_asset("ledger.html.j2"))


def _asset(name: str) -> str:
    return (files("monitorgen.templates") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The digest of an inline style or script, as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _started(ledger: Ledger) -> str:
    """When the runs began: what they say, or when their first live proof was made."""
    said = [run["started"] for run in (ledger.runs or [ledger.run]) if run.get("started")]
    seen = [proof.when for proof in ledger.proofs if proof.level == "live" and proof.when]
    return _when(min(said or seen, default=""))


def _when(text: str) -> str:
    """A time of ISO 8601 as people read it; anything else as it is."""
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at.tzinfo else text
    except (ValueError, OverflowError):
        return text


def _clock(text: str) -> str:
    """The hour of a time of ISO 8601, for what happened within minutes."""
    return _when(text).removesuffix(" UTC").partition(" ")[2] or text


def _runs(ledger: Ledger) -> list[list[tuple[str, str]]]:
    """The facts of each run."""
    return [
        [(key.replace("_", " "), _when(value)) for key, value in sorted(run.items(), key=_fact) if value]
        for run in (ledger.runs or [ledger.run])
        if run
    ]


def _fact(fact: tuple[str, str]) -> tuple[int, str]:
    """Sorts the facts of a run: those that every run has come first, in this order."""
    return (FACTS.index(fact[0]) if fact[0] in FACTS else len(FACTS)), fact[0]


def _bar(states: Sequence[str]) -> dict[str, Any]:
    """The counts of states, and the bar that shows them: (state, start, length) of a hundred."""
    counts = {state: states.count(state) for state in ("proven", "unproven", "failed")}
    concerned = sum(counts.values())
    pieces, start = [], 0.0
    for state, count in counts.items():
        length = 100 * count / concerned if concerned else 0.0
        if count:
            pieces.append((state, f"{start:.2f}", f"{length:.2f}"))
        start += length
    return {**counts, "items": concerned, "pieces": pieces}


def _summary(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """A row for each kind of item, and one for all of them."""
    for kind, items in {**views.kinds_of(ledger), "": list(ledger.items)}.items():
        bars = [(level, _bar([ledger.state(item, level) for item in items])) for level in LEVELS]
        words = views.KIND_WORDS.get(kind, kind) if kind else "all items"
        yield {"kind": kind, "words": words, "count": len(items), "bars": bars}


def _sources(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """A row for each kind of source that proved something live."""
    for source, counts in views.proven_by(ledger).items():
        yield {
            "kind": source or "unnamed",
            "words": views.source_words(source),
            "counts": [counts.get(kind, 0) for kind in views.kinds_of(ledger)],
            "total": sum(counts.values()),
        }


def _failures(ledger: Ledger) -> Iterator[dict[str, Any]]:
    numbers = _numbers(ledger)
    for item, claims in views.failures_of(ledger).items():
        shown = [{"level": level, **_claim(claim, "")} for level, claim in claims]
        yield {"item": item, "number": numbers.get(item), "claims": shown}


def _unproven(ledger: Ledger, level: Level) -> Iterator[dict[str, Any]]:
    numbers = _numbers(ledger)
    for reason, items in views.unproven_by_reason(ledger, level).items():
        yield {"reason": reason, "items": [(numbers[item], _name(item)) for item in items]}


def _numbers(ledger: Ledger) -> dict[str, int]:
    """The number of each item, by which links find it."""
    return {item: number for number, item in enumerate(ledger.items, 1)}


@dataclass(frozen=True, slots=True)
class _Section:
    """The items of one signal."""

    title: str
    is_signal: bool
    rows: tuple[dict[str, Any], ...]


def _sections(ledger: Ledger) -> list[_Section]:
    """The items by signal, in the order of the profile; those without a signal last."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item, number in _numbers(ledger).items():
        signal = ledger.about.get(item, About()).signal
        groups.setdefault(signal, []).append(_row(ledger, item, number))
    ordered = sorted(groups.items(), key=lambda group: group[0] == "")
    return [_Section(signal or ELSEWHERE, bool(signal), tuple(rows)) for signal, rows in ordered]


def _row(ledger: Ledger, item: str, number: int) -> dict[str, Any]:
    about = ledger.about.get(item, About())
    live = [proof for proof in ledger.of(item, "live") if proof.holds]
    valued = next((proof for proof in live if proof.value is not None), None)
    plots = (plot(proof.points, *_ROW) for proof in live if proof.points)
    steps = _steps(ledger, item)
    return {
        "item": item,
        "number": number,
        "kind": kind_of(item),
        "short": SHORT_KINDS.get(kind_of(item), kind_of(item)),
        "name": _name(item),
        "unit": unit_name(about.unit) if about.unit else "",
        "where": item.split("/")[1] if kind_of(item) == "panel" and item.count("/") > 1 else "",
        "about": about,
        "states": [(level, ledger.state(item, level)) for level in LEVELS],
        "value": ""
        if valued is None or valued.value is None
        else format_value(valued.value, _unit_of(valued, about.unit)),
        "plot": None if steps else next((one for one in plots if one), None),
        "steps": steps,
        "done": sum(state == "proven" for _, state, _ in steps),
        "levels": [_evidence(ledger, item, level, about.unit) for level in LEVELS],
    }


def _name(item: str) -> str:
    """An item's name without its kind; a panel's without its dashboard."""
    kind, _, rest = item.partition("/")
    return (rest.partition("/")[2] if kind == "panel" else rest) or rest or item


def _steps(ledger: Ledger, item: str) -> list[tuple[str, str, str]]:
    """Each step of an alert that was provoked live: what, in which state, when; nothing for other items."""
    claims = [
        claim for claim in claims_of(ledger, item, "live") if views.step_of(claim.text) < len(ALERT_STEPS)
    ]
    if kind_of(item) != "alert" or not claims:
        return []
    steps = []
    for number, (step, _) in enumerate(ALERT_STEPS):
        about = [claim for claim in claims if views.step_of(claim.text) == number]
        state = "none" if not about else "proven" if all(claim.holds for claim in about) else "failed"
        when = next((proof.when for claim in about for proof in claim.proofs if proof.when), "")
        steps.append((step, state, _clock(when)))
    return steps


def _evidence(ledger: Ledger, item: str, level: Level, unit: str) -> dict[str, Any]:
    state = ledger.state(item, level)
    return {
        "level": level,
        "words": LEVEL_WORDS[level][0],
        "state": state,
        "reason": views.reason_of(ledger, item, level) if state == "unproven" else "",
        "claims": [_claim(claim, unit) for claim in claims_of(ledger, item, level)],
    }


def _claim(claim: Claim, unit: str) -> dict[str, Any]:
    """A claim with its queries; live ones with what came back, failed ones with what should have."""
    live = claim.proofs[0].level == "live"
    said = [answer for answer in claim.answers if answer not in _QUIET]
    return {
        "text": claim.text,
        "holds": claim.holds,
        "sources": views.sources_text(claim.proofs),
        "origins": [kind for kind in dict.fromkeys(proof.kind for proof in claim.proofs) if kind],
        "asked": [] if live else claim.asked,
        "answers": said if claim.holds and not live else [],
        "seen": [_seen(proof, unit) for proof in _unlike(claim.proofs)] if live else [],
        "failed": [_failure(proof) for proof in claim.failed],
    }


def _unlike(proofs: Iterable[Proof]) -> list[Proof]:
    """The live proofs that hold, each query, time and answer once."""
    unlike = {(p.asked, p.when, p.answer, p.value, p.source): p for p in proofs if p.holds}
    return list(unlike.values())


def _seen(proof: Proof, unit: str) -> dict[str, Any]:
    """A live proof as it is shown: the query, and what came back, when, with its plot."""
    drawn: Plot | None = plot(proof.points, *_LARGE, pad=4)
    unit = _unit_of(proof, unit)
    return {
        "asked": proof.asked,
        "value": "" if proof.value is None else format_value(proof.value, unit),
        "answer": "" if proof.answer in _QUIET or _COUNTED.match(proof.answer) else proof.answer,
        "series": f"{proof.series} series" if proof.series else "",
        "when": _when(proof.when),
        "source": proof.source,
        "plot": drawn,
        "low": format_value(drawn.low, unit) if drawn else "",
        "high": format_value(drawn.high, unit) if drawn else "",
        "last": format_value(drawn.last, unit) if drawn else "",
        "span": format_value(drawn.seconds, "seconds") if drawn else "",
    }


def _unit_of(proof: Proof, unit: str) -> str:
    """The unit of a proof's value: a heatmap's is that of its buckets' edges, and its values are counts."""
    return "" if _BUCKETS.search(proof.asked) and "histogram_quantile" not in proof.asked else unit


def _failure(proof: Proof) -> dict[str, str]:
    compared = views.expected_and_got(proof.answer)
    expected, got = compared or ("", "")
    return {
        "asked": proof.asked,
        "when": _when(proof.when),
        "expected": expected,
        "got": got,
        "answer": "" if compared else proof.answer,
        "source": proof.source,
    }
