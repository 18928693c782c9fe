"""The ledger as JUnit XML, which GitHub, GitLab and Jenkins show: a suite a level, a test case an item."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as Xml

from monitorgen.prove.ledger import LEVELS, Ledger, Level, Proof
from monitorgen.prove.views import claims_of, expected_and_got, kind_of, reason_of

# All that XML 1.0 has no character for (https://www.w3.org/TR/xml/#charsets).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST = 20  # failed proofs of an item that are written out


def junit(ledger: Ledger) -> str:
    """The XML text. What failed is a failure, what is unproven is skipped, with its reason.

    Items that a level does not concern have no case in its suite. The class of a case is `LEVEL.KIND`, so
    that class and name together are unique, which the readers of these files take for granted. No times
    are given: proofs are not timed one by one.
    """
    counts = [ledger.counts(level) for level in LEVELS]
    root = Xml.Element(
        "testsuites",
        name=xml_text(ledger.bundle),
        tests=str(sum(count["items"] for count in counts)),
        failures=str(sum(count["failed"] for count in counts)),
        errors="0",
    )
    for level in LEVELS:
        _suite(root, ledger, level)
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def xml_text(text: str) -> str:
    """A text without the characters that XML 1.0 forbids: they are written as in Python, `\\x1b`."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")  # as whoever reads XML would do
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), unified)


def _suite(root: Xml.Element, ledger: Ledger, level: Level) -> None:
    counts = ledger.counts(level)
    suite = Xml.SubElement(
        root,
        "testsuite",
        name=level,
        tests=str(counts["items"]),
        failures=str(counts["failed"]),
        errors="0",
        skipped=str(counts["unproven"]),
    )
    if level == "live":
        _facts(suite, ledger)
    for item in ledger.items:
        state = ledger.state(item, level)
        if state == "none":
            continue
        name = item.partition("/")[2] or item
        case = Xml.SubElement(
            suite, "testcase", classname=xml_text(f"{level}.{kind_of(item)}"), name=xml_text(name)
        )
        if state == "failed":
            _failure(case, [proof for proof in ledger.of(item, level) if not proof.holds])
        elif state == "unproven":
            Xml.SubElement(case, "skipped", message=xml_text(reason_of(ledger, item, level)))
        claims = [
            f"{'holds ' if one.holds else 'failed'} {one.text}" for one in claims_of(ledger, item, level)
        ]
        if claims:
            Xml.SubElement(case, "system-out").text = xml_text("\n".join(claims))


def _facts(suite: Xml.Element, ledger: Ledger) -> None:
    """What the runs were made with, as the suite's properties; the first start as its time stamp."""
    runs = [run for run in (ledger.runs or [ledger.run]) if run]
    started = [at for run in runs if (at := _utc(run.get("started", "")))]
    if started:
        suite.set("timestamp", min(started))
    if not runs:
        return
    properties = Xml.SubElement(suite, "properties")
    for number, run in enumerate(runs, 1):
        prefix = f"run {number}: " if len(runs) > 1 else ""
        for key, value in sorted(run.items()):
            Xml.SubElement(properties, "property", name=xml_text(prefix + key), value=xml_text(value))


def _utc(text: str) -> str:
    """A time with its zone as the readers want it, in UTC without a zone; empty if it is none."""
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") if at.tzinfo else ""
    except (ValueError, OverflowError):
        return ""


def _failure(case: Xml.Element, proofs: Sequence[Proof]) -> None:
    """All failed claims of an item in one failure: readers show the first only."""
    first = proofs[0]
    message = f"{first.claim}: {' '.join(first.answer.split()) or 'does not hold'}"
    failure = Xml.SubElement(case, "failure", type="claim", message=xml_text(message))
    shown = ["\n".join(_lines(proof)) for proof in proofs[:_MOST]]
    if len(proofs) > _MOST:
        shown.append(f"and {len(proofs) - _MOST} more")
    failure.text = xml_text("\n\n".join(shown))


def _lines(proof: Proof) -> Iterator[str]:
    """What was asked, expected and got, a line each."""
    yield f"{proof.claim} ({proof.source})"
    compared = expected_and_got(proof.answer)
    named: Iterable[tuple[str, str]] = [("asked", proof.asked), ("when", proof.when)]
    answers = zip(("expected", "got"), compared, strict=True) if compared else [("answer", proof.answer)]
    for name, text in (*named, *answers):
        if text:
            yield f"{name + ':':<9} {text}"
