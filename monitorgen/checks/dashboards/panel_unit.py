"""Units of panels."""

from __future__ import annotations

from collections.abc import Iterator

from monitorgen.catalog.units import UNITS
from monitorgen.checks.bounds import bounds
from monitorgen.checks.context import Context, PanelSubject
from monitorgen.checks.dashboards.panel_target import needs_targets
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

#: Kinds that print no values with a unit of the panel's.
_UNITLESS = frozenset({"table", "logs", "nodeGraph", "traces", "canvas"})


@check("panel-unit")
def panel_unit(context: Context) -> Iterator[Finding]:
    """Every panel has a unit that Grafana knows, and it is the unit that its queries yield."""
    from monitorgen.checks.grafana_schema import is_unit  # its data is read only if there is a dashboard

    for subject in context.panels:
        panel = subject.panel
        if not needs_targets(panel) or panel.kind in _UNITLESS:
            continue
        if not panel.unit:
            yield subject.finding("no unit", _hint(context, subject))
        elif not is_unit(panel.unit):
            yield subject.finding(f"Grafana has no unit {panel.unit!r}", _hint(context, subject))
        else:
            yield from _disagrees(context, subject)


def _yields(context: Context, subject: PanelSubject) -> dict[str, str]:
    """The units that the panel's queries yield, with the refId of one that does."""
    found: dict[str, str] = {}
    for query in subject.panel.queries:
        if context.tree(query.expr) is not None and not query.hidden:
            # A heatmap draws buckets: its unit is the one of the axis, so that of what is measured.
            unit = (
                _measured(context, query.expr)
                if subject.panel.kind == "heatmap"
                else context.unit(query.expr)
            )
            if unit in UNITS and not _beyond_share(context, subject, query.expr, unit):
                found.setdefault(unit, query.ref_id)
    return found


def _beyond_share(context: Context, subject: PanelSubject, expr: str, unit: str) -> bool:
    """Whether a quotient that may exceed 1 is drawn as a plain number, which fits as well as a percentage."""
    root = context.tree(expr)
    plain = unit == "ratio" and subject.panel.unit in ("short", "none") and root is not None
    return plain and root is not None and bounds(context, root).high > 1


def _measured(context: Context, expr: str) -> str:
    families = [context.family(selector.name) for selector in context.selectors(expr)]
    units = {family.unit for family in families if family}
    return units.pop() if len(units) == 1 else ""


def _disagrees(context: Context, subject: PanelSubject) -> Iterator[Finding]:
    for unit, ref_id in _yields(context, subject).items():
        accepted = UNITS[unit].grafana
        if subject.panel.unit not in accepted:
            yield subject.finding(
                f"its unit is {subject.panel.unit}, but query {ref_id} yields {unit}",
                f"use {' or '.join(accepted)}",
            )


def _hint(context: Context, subject: PanelSubject) -> str:
    units = list(_yields(context, subject))
    return f"use {UNITS[units[0]].grafana[0]}" if units else "use short for plain numbers"
