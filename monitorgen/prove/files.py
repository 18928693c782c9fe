"""All files of a profile's bundle: what the targets write, and the unit tests that prove it."""

from __future__ import annotations

from typing import Any

from monitorgen.build import Built
from monitorgen.profile import parse_seconds
from monitorgen.prove.simulate import bound, plan_tests, test_files
from monitorgen.targets.files import about, bundle_files


def profile_files(built: Built) -> tuple[dict[str, str], dict[str, Any]]:
    """The files by name, and what the manifest says of them."""
    interval = built.loaded.profile.interval
    files = bundle_files(
        built.bundle, interval=parse_seconds(interval.scrape), evaluation=parse_seconds(interval.evaluate)
    )
    tests, _ = bound(plan_tests(built).tests, built.bundle)
    files.update(test_files(tests, built.bundle.groups))
    return files, about(built.bundle, profile=built.loaded.name)
