"""The target `vllm_monitoring`: building a monitoring bundle, as something to time and to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from monitorgen.errors import InputError, MonitorgenError
from monitorgen.kernels.workload import Outcome, UsageError


class BundleRun:
    """Builds a profile's bundle in memory: profile, catalogs, rules, dashboards, runbooks, tests, as text."""

    bytes_moved = 0.0
    flops = 0.0
    device: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, profile: str, config: Path | None) -> None:
        self._profile, self._config = profile, (config,) if config else ()
        self._files: Mapping[str, Any] = {}
        self._counted: dict[str, float] = {}

    def step(self) -> None:
        """Load the profile and build everything that would be written."""
        from monitorgen.build import build
        from monitorgen.profile import load_profile
        from monitorgen.prove.files import profile_files

        built = build(load_profile(self._profile, config=self._config))
        self._files, _ = profile_files(built)
        bundle = built.bundle
        self._counted = {
            "recording_rules": float(sum(1 for _ in bundle.recording_rules)),
            "alerts": float(len(built.alerts)),
            "panels": float(sum(1 for dashboard in bundle.dashboards for _ in dashboard.panels)),
            "runbooks": float(len(bundle.runbooks)),
            "dormant_signals": float(len(bundle.dormant)),
            "files": float(len(self._files)),
        }

    def outcome(self) -> Outcome:
        """The files to the byte: the same profile gives the same in every run."""
        return Outcome(exact={"files": {str(name): str(text) for name, text in self._files.items()}})

    def metrics(self) -> Mapping[str, float]:
        """What the bundle holds."""
        return self._counted

    def close(self) -> None:
        """Nothing is held."""


@click.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file of overrides.")
@click.option(
    "--outdir", type=click.Path(path_type=Path, file_okay=False), help="Where the bundle is written."
)
def _flags(config: Path | None, outdir: Path | None) -> None:
    """Build the bundle of a profile: rules, alerts, dashboards, runbooks and their tests."""


def prepare(profile: str, flags: Sequence[str]) -> BundleRun:
    """The arm ready to be timed, which writes nothing. Raises UsageError for what cannot be built."""
    try:
        given = _flags.make_context(profile, list(flags)).params
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None
    if given["outdir"]:
        raise UsageError("--outdir writes a bundle; the bench builds it in memory only")
    run = BundleRun(profile, given["config"])
    try:
        run.step()
    except MonitorgenError as error:
        raise UsageError(str(error)) from None
    return run


def main(profile: str, argv: Sequence[str] | None) -> int:
    """Write the bundle of a profile, as `monitorgen build` does."""
    from monitorgen.build import build
    from monitorgen.profile import load_profile
    from monitorgen.prove.files import profile_files
    from monitorgen.prove.texts import refuse_broken_texts
    from monitorgen.targets.writer import write

    try:
        given = _flags.make_context(f"{profile}_vllm_monitoring", list(argv or [])).params
    except click.exceptions.Exit:
        return 0
    except click.ClickException as error:
        raise InputError(error.format_message()) from None
    built = build(load_profile(profile, config=(given["config"],) if given["config"] else ()))
    refuse_broken_texts(built)
    files, about = profile_files(built)
    out = given["outdir"] or Path("dist") / profile
    write(files, out, about=about)
    click.echo(f"{out}: {len(files)} files")
    return 0
