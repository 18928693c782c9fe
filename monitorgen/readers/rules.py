"""Rule files to rule groups: Prometheus's own format, and the operators' custom resources around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitorgen.bundle import AlertRule, Origin, Pairs, RecordingRule, Rule, RuleGroup, pairs
from monitorgen.errors import InputError
from monitorgen.promql import parse_duration
from monitorgen.readers.source import Source, read_source
from monitorgen.readers.yaml_nodes import YamlNode, documents, only

RESOURCES = ("PrometheusRule", "VMRule")
_LISTS = ("List", "PrometheusRuleList", "VMRuleList")
# Keys of Prometheus, Mimir, Thanos and VictoriaMetrics; those that we do not use change no meaning of ours.
_FILE_KEYS = frozenset({"groups", "namespace"})
_GROUP_KEYS = frozenset(
    key
    for line in (
        "name interval rules labels limit query_offset",
        "source_tenants align_evaluation_time_on_interval evaluation_delay partial_response_strategy",
        "type concurrency params headers notifier_headers tenant debug eval_offset eval_delay eval_alignment",
        "extra_filter_labels",
    )
    for key in line.split()
)
_COMMON_KEYS = frozenset({"expr", "labels", "debug", "update_entries_limit"})
_RECORD_KEYS = _COMMON_KEYS | {"record"}
_ALERT_KEYS = _COMMON_KEYS | {"alert", "for", "keep_firing_for", "annotations"}


def read_rules(path: Path, *, name: str | None = None) -> tuple[RuleGroup, ...]:
    """The rule groups of a file (or of PrometheusRule resources in it), each rule with its line and column.

    `name` is what the groups' `file` says, the path by default. InputError where this is no rule file.
    """
    source = read_source(path)
    return groups_of(documents(source), source, name=name or str(path))


def groups_of(nodes: list[YamlNode], source: Source, *, name: str) -> tuple[RuleGroup, ...]:
    """The rule groups of a file's documents."""
    groups = tuple(group for node in nodes for holder in _holders(node) for group in _groups(holder, name))
    if not nodes:
        raise InputError("is empty", origin=Origin(source.name), hint="a rule file has `groups:`")
    return groups


def holds_rules(nodes: list[YamlNode]) -> bool:
    """Whether these documents are a rule file or hold a rule resource."""
    return any(
        node.is_mapping and ("groups" in node.fields() or _kind(node) in (*RESOURCES, *_LISTS))
        for node in nodes
    )


def _kind(node: YamlNode) -> str:
    kind = node.fields().get("kind")
    return kind.text() if kind is not None else ""


def _holders(node: YamlNode) -> list[YamlNode]:
    """The mappings that have `groups`: the document, a resource's spec, or the specs of a list's items."""
    fields = node.fields()
    kind = _kind(node)
    if kind in _LISTS and "items" in fields:
        return [
            holder
            for item in fields["items"].items()
            if _kind(item) in RESOURCES
            for holder in _holders(item)
        ]
    if kind in RESOURCES:
        return [fields["spec"]] if "spec" in fields else []
    if kind:
        return []  # some other resource in the same file
    if "groups" not in fields:
        raise node.error("holds no rule groups", "a rule file begins with `groups:`")
    only(fields, _FILE_KEYS, "a rule file")
    return [node]


def _groups(holder: YamlNode, name: str) -> list[RuleGroup]:
    groups = holder.fields().get("groups")
    seen: set[str] = set()
    found = []
    for node in groups.items() if groups else []:
        group = _group(node, name)
        if group.name in seen:
            raise node.error(
                f"the group {group.name!r} stands here twice", "Prometheus refuses that; rename one"
            )
        seen.add(group.name)
        found.append(group)
    return found


def _group(node: YamlNode, file: str) -> RuleGroup:
    fields = node.fields()
    only(fields, _GROUP_KEYS, "a rule group")
    title = fields["name"].text() if "name" in fields else ""
    if not title:
        raise node.error("a rule group has no name", "add `name:`")
    shared = fields["labels"].texts() if "labels" in fields else {}
    rules = fields["rules"].items() if "rules" in fields else []
    return RuleGroup(
        name=title,
        rules=tuple(_rule(rule, shared) for rule in rules),
        interval=_seconds(fields, "interval"),
        file=file,
        origin=node.origin,
    )


def _rule(node: YamlNode, shared: Mapping[str, str]) -> Rule:
    fields = node.fields()
    if ("record" in fields) == ("alert" in fields):
        what = "both `record` and `alert`" if "record" in fields else "neither `record` nor `alert`"
        raise node.error(f"a rule has {what}", "give one of them")
    key = "record" if "record" in fields else "alert"
    only(fields, _RECORD_KEYS if key == "record" else _ALERT_KEYS, f"a rule with `{key}`")
    title = fields[key].text()
    if not title:
        raise fields[key].error(f"`{key}` is empty", "name the rule")
    expr = fields["expr"].text() if "expr" in fields else ""
    if not expr.strip():
        raise node.error(f"the rule {title!r} has no `expr`", "add the expression")
    labels = _pairs(fields, "labels", shared)
    if key == "record":
        return RecordingRule(record=title, expr=expr, labels=labels, origin=node.origin)
    return AlertRule(
        alert=title,
        expr=expr,
        hold=_seconds(fields, "for"),
        labels=labels,
        annotations=_pairs(fields, "annotations", {}),
        keep_firing_for=_seconds(fields, "keep_firing_for"),
        origin=node.origin,
    )


def _pairs(fields: Mapping[str, YamlNode], key: str, shared: Mapping[str, str]) -> Pairs:
    return pairs({**shared, **(fields[key].texts() if key in fields else {})})


def _seconds(fields: Mapping[str, YamlNode], key: str) -> float:
    """A duration's seconds; 0 where it is not given."""
    node = fields.get(key)
    text = node.text() if node else ""
    if not node or not text:
        return 0.0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise node.error(f"`{key}`: {error}") from error
