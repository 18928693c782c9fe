"""Static proofs: our checks over the bundle, and promtool over its files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from monitorgen.bundle import Bundle
from monitorgen.catalog import Catalog
from monitorgen.checks import Context, Finding, all_checks, run
from monitorgen.prove.ledger import Ledger, Proof
from monitorgen.prove.promtool import Promtool
from monitorgen.targets.files import bundle_files
from monitorgen.targets.grafana import dashboard_json


def static_proofs(
    bundle: Bundle, catalogs: dict[str, tuple[Catalog, ...]] | None, ledger: Ledger
) -> tuple[Finding, ...]:
    """Run all checks; an item without findings is proven statically. The findings are returned."""
    context = Context(_with_json(bundle), catalogs, target_labels=_target_labels(bundle))
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


def _with_json(bundle: Bundle) -> Bundle:
    """The bundle with each dashboard's JSON, which the checks against Grafana's schema read."""
    dashboards = (d if d.raw is not None else replace(d, raw=dashboard_json(d)) for d in bundle.dashboards)
    return replace(bundle, dashboards=tuple(dashboards))


def _target_labels(bundle: Bundle) -> set[str]:
    return {"job", "instance"} | {label for job in bundle.scrape_jobs for label, _ in job.labels}


def promtool_proofs(bundle: Bundle, promtools: Iterable[Promtool], ledger: Ledger) -> None:
    """`promtool check rules` and `check config`, every lint fatal, for each promtool."""
    with tempfile.TemporaryDirectory(prefix="monitorgen-") as name:
        folder = Path(name)
        files = bundle_files(bundle)
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        rules = [folder / file for file in files if file.startswith("rules/")]
        for tool in promtools:
            trouble = tool.check_rules(rules) if rules else ""
            config = tool.check_config(folder / "prometheus.yml") if bundle.scrape_jobs else ""
            for item in ledger.items:
                kind = item.split("/", 1)[0]
                if kind in ("record", "alert"):
                    ledger.add([_said(item, "check rules --lint=all --lint-fatal", trouble, tool)])
                elif kind == "scrape":
                    ledger.add([_said(item, "check config --lint=all --lint-fatal", config, tool)])


def _said(item: str, asked: str, trouble: str, tool: Promtool) -> Proof:
    return Proof(
        item, "static", "valid", not trouble, f"promtool {tool.version}", asked, trouble or "no complaint"
    )
