"""What an expression reads and yields: parsing with places, selectors, labels, units, scaling."""

from __future__ import annotations

from monitorgen.promql.durations import format_duration, parse_duration
from monitorgen.promql.edit import add_matchers, rename, scale_durations
from monitorgen.promql.errors import Problem, PromQLError, underline
from monitorgen.promql.grafana import grafana_substitute
from monitorgen.promql.labels import Flow, label_flow
from monitorgen.promql.labelset import Labels
from monitorgen.promql.portable import portable
from monitorgen.promql.selectors import Matcher, Selector, selectors
from monitorgen.promql.tree import Node, Tree, parse, tree
from monitorgen.promql.units import UnitFlow, unit_flow

__all__ = [
    "Flow",
    "Labels",
    "Matcher",
    "Node",
    "Problem",
    "PromQLError",
    "Selector",
    "Tree",
    "UnitFlow",
    "add_matchers",
    "format_duration",
    "grafana_substitute",
    "label_flow",
    "parse",
    "parse_duration",
    "portable",
    "rename",
    "scale_durations",
    "selectors",
    "tree",
    "underline",
    "unit_flow",
]
