"""`check` as a function: static and simulated proofs of a profile's bundle, or of a written folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from monitorgen.build import Built, build, load_catalogs
from monitorgen.bundle import Bundle
from monitorgen.checks import Finding
from monitorgen.errors import InputError
from monitorgen.profile import load_profile
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.promtool import Promtool, find_promtools
from monitorgen.prove.simulate import Progress, plan_tests, simulate
from monitorgen.prove.static import promtool_proofs, static_proofs


@dataclass(frozen=True)
class CheckResult:
    """A ledger, the findings of the static checks, and the promtools that were asked."""

    ledger: Ledger
    findings: tuple[Finding, ...]
    promtools: tuple[str, ...]

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
) -> CheckResult:
    """Build a profile in memory and prove what comes out."""
    built = build(load_profile(name, config=config, sets=sets))
    return check_built(built, built.bundle, level, promtools, progress)


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
    from monitorgen.targets.manifest import read_manifest

    if not path.is_dir():
        raise InputError(f"{path} is not a folder", hint="give the folder that `monitorgen build` wrote")
    bundle = read_folder(path)
    if profile is None:
        manifest = read_manifest(path)
        profile = str(manifest.about.get("profile", "")) if manifest else ""
    if not profile:
        raise InputError(f"{path} has no manifest that names its profile", hint="give one with --profile")
    built = build(load_profile(profile, config=config, sets=sets))
    return check_built(built, bundle, level, promtools, progress)


def check_built(
    built: Built, bundle: Bundle, level: str, promtools: Sequence[str], progress: Progress | None = None
) -> CheckResult:
    """Prove `bundle` by what `built` means."""
    ledger = Ledger(bundle.name, tuple(dict.fromkeys(bundle.items)), dormant=dict(bundle.dormant))
    for item in ledger.items:
        if item.startswith("scrape/"):
            ledger.beyond[item] = ("simulated",)
    tools: list[Promtool] = find_promtools(promtools)
    findings = static_proofs(bundle, dict(load_catalogs(built.loaded)), ledger)
    promtool_proofs(bundle, tools, ledger)
    if not tools:
        ledger.notes.append("promtool was not found: nothing was proven in simulated time")
    if level == "simulated":
        simulate(plan_tests(built), bundle, tools, ledger, progress=progress)
    return CheckResult(ledger, findings, tuple(f"promtool {tool.version}" for tool in tools))
