"""Static proofs: our checks over the bundle, and promtool over its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from monitorgen.bundle import Bundle
from monitorgen.catalog import Catalog
from monitorgen.checks import Context, Finding, all_checks, run
from monitorgen.prove.leaving import workfolder
from monitorgen.prove.ledger import Ledger, Proof
from monitorgen.prove.promtool import Promtool
from monitorgen.targets.files import SCRAPE_FILE, prometheus_files
from monitorgen.targets.grafana import Drawing, dashboard_texts


def static_proofs(
    bundle: Bundle,
    catalogs: dict[str, tuple[Catalog, ...]] | None,
    ledger: Ledger,
    drawing: Drawing | None = None,
) -> tuple[Finding, ...]:
    """Run all checks; an item without findings is proven statically. The findings are returned.

    `drawing` draws the dashboards that have no JSON yet.
    """
    context = Context(_with_json(bundle, drawing), catalogs, target_labels=_target_labels(bundle))
    findings = run(context)
    by_item: dict[str, list[Finding]] = {}
    for finding in findings:
        by_item.setdefault(finding.item, []).append(finding)
    versions = ", ".join(
        f"{e} {c[0].version} to {c[-1].version}" for e, c in sorted(context.catalogs.items()) if c
    )
    source = f"{len(all_checks())} checks against {versions}"
    for item in ledger.items:
        found = by_item.get(item, [])
        serious = [f for f in found if f.severity != "info"]
        answer = "; ".join(str(f) for f in serious) if serious else "no findings"
        ledger.add([Proof(item, "static", "no check complains", not serious, source, answer=answer)])
    return findings


def _with_json(bundle: Bundle, drawing: Drawing | None) -> Bundle:
    """The bundle with each dashboard's JSON, which the checks against Grafana's schema read."""
    missing = [dashboard for dashboard in bundle.dashboards if dashboard.raw is None]
    if drawing:
        drawing.send(missing)
    texts = iter(drawing.result() if drawing else dashboard_texts(missing))
    dashboards = (
        d if d.raw is not None else replace(d, raw=json.loads(next(texts))) for d in bundle.dashboards
    )
    return replace(bundle, dashboards=tuple(dashboards))


def _target_labels(bundle: Bundle) -> set[str]:
    return {"job", "instance"} | {label for job in bundle.scrape_jobs for label, _ in job.labels}


@dataclass(frozen=True, slots=True)
class Complaints:
    """What a promtool says against a bundle's rules and its configuration; empty: nothing."""

    version: str
    rules: str
    config: str


def ask_promtools(bundle: Bundle, promtools: Iterable[Promtool]) -> list[Complaints]:
    """`promtool check rules` and `check config`, every lint fatal, asked of several at a time."""
    with workfolder() as folder:
        files = prometheus_files(bundle)
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        rules = [folder / file for file in files if file.startswith("rules/")]

        def ask(tool: Promtool) -> Complaints:
            return Complaints(
                tool.version,
                tool.check_rules(rules) if rules else "",
                tool.check_config(folder / SCRAPE_FILE) if bundle.scrape_jobs else "",
            )

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return list(pool.map(ask, promtools))


def promtool_proofs(answers: Iterable[Complaints], ledger: Ledger) -> None:
    """Enter what promtools said of the files: of every rule, and of every scrape job."""
    for answer in answers:
        for item in ledger.items:
            kind = item.split("/", 1)[0]
            if kind in ("record", "alert"):
                ledger.add([_said(item, "rules", answer.rules, answer)])
            elif kind == "scrape":
                ledger.add([_said(item, "config", answer.config, answer)])


def _said(item: str, what: str, trouble: str, answer: Complaints) -> Proof:
    asked = f"check {what} --lint=all --lint-fatal"
    source = f"promtool {answer.version}"
    return Proof(item, "static", "valid", not trouble, source, asked, trouble or "no complaint")
