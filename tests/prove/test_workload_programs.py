"""Which bundled workloads a live proof starts: those that export what the bundle reads."""

from __future__ import annotations

import pytest

from monitorgen.build import build
from monitorgen.profile import load_profile
from monitorgen.prove.workload import programs_for


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("baseline", []),
        ("optimized", ["the decode workload", "the speculative workload"]),
        ("speculative", ["the speculative workload"]),
    ],
)
def test_the_programs_of_a_profile_export_what_it_reads(profile: str, names: list[str]) -> None:
    assert [program.name for program in programs_for(build(load_profile(profile)).bundle)] == names
