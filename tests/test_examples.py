"""What the examples say must stay true: a bundle is what its profile gives, and all of it is proven."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from monitorgen.build import build
from monitorgen.cli import cli
from monitorgen.profile import load_profile
from monitorgen.prove.check import check_built

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_committed_bundle_is_what_its_profile_gives() -> None:
    folder = EXAMPLES / "gitops"
    arguments = [
        "build",
        "--profile",
        str(folder / "profile.yaml"),
        "--out",
        str(folder / "bundle"),
        "--check",
    ]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["custom/chat.yaml", "gitops/profile.yaml"])
def test_every_item_of_an_example_is_proven(name: str, one_promtool: Path) -> None:
    built = build(load_profile(str(EXAMPLES / name)))
    result = check_built(built, built.bundle, "simulated", [str(one_promtool)])
    assert result.findings == ()
    assert result.exit_code("simulated", require=True) == 0


def test_overrides_reach_the_rules() -> None:
    overrides = EXAMPLES / "custom" / "overrides.yaml"
    alerts = {a.alert: a.expr for a in build(load_profile("optimized", config=[overrides])).bundle.alerts}
    assert " > 0.4 " in alerts["TTFTHigh"]
    assert alerts["KVCacheHigh"].endswith("> 0.85")
    assert alerts["QueueStalled"].endswith("> 20")
