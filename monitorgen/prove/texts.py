"""Texts that Prometheus would refuse or print with holes: `build` says so before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen import gotemplate
from monitorgen.build import Built, PlannedAlert
from monitorgen.errors import InputError


def refuse_broken_texts(built: Built) -> None:
    """Raise InputError for a template of an alert that does not parse, or that uses an absent label."""
    for alert in built.alerts:
        for path, text in _texts(alert):
            read = gotemplate.read(text)
            origin = built.loaded.origin("alerts", alert.name, *path)
            # What is only printed as it stands is no error of Prometheus's: `check` speaks of it.
            problems = [problem for problem in read.problems if "is printed" not in problem]
            if problems:
                hint = "write {{ $labels.x }} and {{ $value | humanize }}"
                raise InputError(f"{path[0]}: {problems[0]}", origin=origin, hint=hint)
            for label in read.labels:
                if label not in alert.labels:
                    raise InputError(
                        f"{path[0]} uses $labels.{label}, which the condition does not have",
                        origin=origin,
                        hint=f"it has {', '.join(alert.labels) or 'no labels'}",
                    )


def _texts(alert: PlannedAlert) -> Iterator[tuple[tuple[str, ...], str]]:
    """What a person wrote for the alert, by its key path."""
    yield ("summary",), alert.spec.summary
    yield ("description",), alert.spec.description
    yield ("action",), alert.spec.action
    for name, value in alert.spec.labels.items():
        yield ("labels", name), value
