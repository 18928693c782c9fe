"""Groups that are there twice."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.bundle import Origin
from monitorgen.checks.context import Context, Subject
from monitorgen.checks.finding import Finding, at
from monitorgen.checks.registry import check


@check("duplicate-groups")
def duplicate_groups(context: Context) -> Iterator[Finding]:
    """No two groups of a file have the same name."""
    seen: dict[tuple[str, str], Origin] = {}
    for group in context.bundle.groups:
        key = (group.file, group.name)
        if key in seen:
            subject = Subject(f"group/{group.name}", group.origin)
            yield subject.finding(f"there is another group of this name{at(seen[key])}", "rename one")
        seen.setdefault(key, group.origin)
