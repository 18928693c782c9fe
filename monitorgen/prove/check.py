"""`check` as a function: static and simulated proofs of a profile's bundle, or of a written folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from monitorgen.build import Built, build, load_catalogs
from monitorgen.bundle import Bundle, Origin
from monitorgen.checks import Finding
from monitorgen.errors import InputError
from monitorgen.profile import load_profile
from monitorgen.prove.adopt import adopted
from monitorgen.prove.amtool import amtool_proofs, ask_amtools, find_amtools
from monitorgen.prove.ledger import Ledger, Proof, about_items
from monitorgen.prove.promtool import Promtool, find_promtools
from monitorgen.prove.scenarios import plan_tests
from monitorgen.prove.simulate import Progress, simulate
from monitorgen.prove.static import ask_promtools, promtool_proofs, static_proofs
from monitorgen.targets.grafana import Drawing


@dataclass(frozen=True)
class CheckResult:
    """A ledger, the findings of the static checks, and the promtools that were asked."""

    ledger: Ledger
    findings: tuple[Finding, ...]
    promtools: tuple[str, ...]
    origins: Mapping[str, Origin] = field(default_factory=dict)  # item -> its place in the profile

    def exit_code(self, level: str, *, require: bool = False) -> int:
        """0 if everything holds; 1 for findings, failed proofs, or (with `require`) unproven items."""
        serious = [finding for finding in self.findings if finding.severity != "info"]
        if serious or self.ledger.failed:
            return 1
        levels = ("static", "simulated") if level == "simulated" else ("static",)
        if require and any(self.ledger.counts(name)["unproven"] for name in levels):  # type: ignore[arg-type]
            return 1
        return 0

    def to_json(self) -> str:
        """Ledger and findings as JSON text."""
        plain = self.ledger.to_dict()
        plain["findings"] = [{**asdict(finding), "origin": str(finding.origin)} for finding in self.findings]
        plain["promtools"] = list(self.promtools)
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def check_profile(
    name: str,
    config: Sequence[Path],
    sets: Sequence[str],
    level: str,
    promtools: Sequence[str],
    progress: Progress | None = None,
    drawing: Drawing | None = None,
) -> CheckResult:
    """Build a profile in memory and prove what comes out; `drawing` draws its dashboards."""
    built = build(load_profile(name, config=config, sets=sets))
    return check_built(built, built.bundle, level, promtools, progress, drawing)


def check_bundle(
    path: Path,
    profile: str | None,
    config: Sequence[Path],
    sets: Sequence[str],
    level: str,
    promtools: Sequence[str],
    progress: Progress | None = None,
) -> CheckResult:
    """Put a written folder to the proofs of the profile that made it, or of `profile`."""
    from monitorgen.readers import read_folder

    name = profile or profile_of(path)
    bundle = read_folder(path)
    built = build(load_profile(name, config=config, sets=sets))
    return check_built(built, adopted(bundle, built.bundle), level, promtools, progress)


def profile_of(folder: Path) -> str:
    """The profile that made a written bundle. Raises InputError if its manifest names none."""
    from monitorgen.targets.manifest import read_manifest

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="give the folder that `monitorgen build` wrote")
    manifest = read_manifest(folder)
    name = str(manifest.about.get("profile", "")) if manifest else ""
    if not name:
        raise InputError(f"{folder} has no manifest that names its profile", hint="give one with --profile")
    return name


def check_built(
    built: Built,
    bundle: Bundle,
    level: str,
    promtools: Sequence[str],
    progress: Progress | None = None,
    drawing: Drawing | None = None,
) -> CheckResult:
    """Prove `bundle` by what `built` means."""
    meant, there = set(built.bundle.items), set(bundle.items)
    items = tuple(dict.fromkeys((*bundle.items, *built.bundle.items)))
    ledger = Ledger(bundle.name, items, dormant=dict(bundle.dormant))
    ledger.about = {**about_items(built.bundle), **about_items(bundle)}
    for item in ledger.items:
        if item.startswith("scrape/"):
            ledger.beyond[item] = ("simulated",)
        if item not in there:
            ledger.add([Proof(item, "static", "it is there", False, "the files", answer="no file holds it")])
        elif item not in meant:
            ledger.unproven(item, "simulated", f"the profile {built.loaded.name} does not know it")
    tools: list[Promtool] = find_promtools(promtools)
    amtools = find_amtools()
    with ThreadPoolExecutor(max_workers=2) as pool:  # the tools read the files while our checks run
        asked, routed = pool.submit(ask_promtools, bundle, tools), pool.submit(ask_amtools, bundle, amtools)
        findings = static_proofs(bundle, dict(load_catalogs(built.loaded)), ledger, drawing)
        promtool_proofs(asked.result(), ledger)
        amtool_proofs(bundle, routed.result(), ledger)
    if not tools:
        ledger.notes.append("promtool was not found: nothing was proven in simulated time")
    if not amtools:
        ledger.notes.append("amtool was not found: the routes of alerts were not looked at")
    if level == "simulated":
        simulate(plan_tests(built), bundle, tools, ledger, progress=progress)
    named = tuple(f"promtool {tool.version}" for tool in tools)
    return CheckResult(ledger, findings, named, _origins(built.bundle))


def _origins(bundle: Bundle) -> dict[str, Origin]:
    """Where the profile speaks of each item."""
    origins = {rule.id: rule.origin for group in bundle.groups for rule in group.rules}
    origins.update({job.id: job.origin for job in bundle.scrape_jobs})
    for dashboard in bundle.dashboards:
        origins.update({dashboard.panel_item(panel): panel.origin for panel in dashboard.panels})
    return origins
