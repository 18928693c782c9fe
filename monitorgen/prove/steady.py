"""What a signal reads once its windows lie wholly in one phase: that phase is sampled and read."""

from __future__ import annotations

from collections.abc import Mapping

from monitorgen.build import Plan
from monitorgen.prove.course import SAMPLE_INTERVAL
from monitorgen.prove.meaning import Samples
from monitorgen.prove.solve import Drives, calm_drive
from monitorgen.prove.world import Recorder, Target, sources_of, steps

_TARGET = Target((("job", "steady"), ("instance", "steady:1")), "steady")


def steady_value(plan: Plan, drives: Drives, plans: Mapping[str, Plan], side: int) -> float | None:
    """The signal's single value under constant drives; None if it has none."""
    sources = sources_of(plan, plans)
    window = max([plans[use].window for use in plan.uses] + [plan.window])
    count = steps(window) + 3
    recorder = Recorder()
    exports = []
    for source in sources:
        family = source.families[min(side, len(source.families) - 1)]
        exports.append((family, _TARGET, drives.get(family.name) or calm_drive(family)))
    unique = {family.name: (family, target, drive) for family, target, drive in exports}
    also = {family.name: [source.where for source in sources] for family, _, _ in exports}
    recorder.phase(list(unique.values()), count, also)
    samples = Samples(recorder.courses, plans)
    values = samples.value(plan, plan.parts[0], (count - 1) * SAMPLE_INTERVAL)
    return next(iter(values.values())) if len(values) == 1 else None
