"""What can be timed, and how people name it and give it flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from monitorgen.errors import InputError

BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Target:
    """Something to time: a module for each arm. `rivals`: the arms are two ways to do the same work, so they
    must agree and one may be faster; else they are shown side by side. `extra` must be installed for it."""

    name: str
    group: str
    summary: str
    arms: Mapping[str, str]
    rivals: bool = True
    extra: str = "workloads"


@dataclass(slots=True)
class Chosen:
    """A target to run: which of its arms, and the flags of each."""

    target: Target
    arms: list[str] = field(default_factory=list)
    flags: dict[str, list[str]] = field(default_factory=dict)


MONITORING = Target(
    "vllm_monitoring",
    "monitoring",
    "The baseline and the optimized monitoring bundle, built side by side.",
    {
        "baseline": "monitorgen.bench.baseline_vllm_monitoring",
        "optimized": "monitorgen.bench.optimized_vllm_monitoring",
    },
    rivals=False,
    extra="",
)


def all_targets() -> tuple[Target, ...]:
    """Every bundled workload, and the monitoring bundles."""
    from monitorgen.kernels.workload import WORKLOADS

    kernels = [Target(one.name, one.group, one.summary, one.arms) for one in WORKLOADS]
    return (*kernels, MONITORING)


def find(text: str, targets: Sequence[Target]) -> tuple[Target, tuple[str, ...]]:
    """The target that a name means, and its arms: NAME, GROUP:NAME, and one arm as optimized_NAME,
    NAME_optimized or the name of its module. Raises InputError with the nearest names."""
    names: dict[str, tuple[Target, tuple[str, ...]]] = {}
    for target in targets:
        for arm, module in target.arms.items():
            for name in (f"{arm}_{target.name}", f"{target.name}_{arm}", module.rpartition(".")[2]):
                names[name] = (target, (arm,))
    names |= {target.name: (target, tuple(target.arms)) for target in targets}
    group, colon, name = text.rpartition(":")
    found = names.get(name)
    if found is None or (colon and found[0].group != group):
        near = get_close_matches(name, names, 1)
        known = f"did you mean {near[0]!r}?" if near else "`monitorgen bench list-targets` lists them"
        raise InputError(f"no target {text!r}", hint=known)
    return found


def choose(text: str, extra: Iterable[str], targets: Sequence[Target]) -> list[Chosen]:
    """The targets of a list such as `a,b`, a group or `all`, with the flags of --target-extra-arg."""
    chosen: dict[str, Chosen] = {}
    groups = {target.group for target in targets}
    for part in text.split(","):
        if not (part := part.strip()):
            raise InputError(f"--targets {text!r} has an empty name")
        if part == "all" or part in groups:
            picked = [(one, tuple(one.arms)) for one in targets if part in ("all", one.group)]
        else:
            picked = [find(part, targets)]
        for target, arms in picked:
            one = chosen.setdefault(target.name, Chosen(target))
            one.arms = [arm for arm in target.arms if arm in one.arms or arm in arms]
    _give_flags(chosen, extra, targets)
    return list(chosen.values())


def _give_flags(chosen: dict[str, Chosen], extra: Iterable[str], targets: Sequence[Target]) -> None:
    """Hand out flags: those of a target to all of its arms, those of an arm to that arm on top."""
    seen: set[str] = set()
    for text in extra:
        name, words = parse_extra(text)
        target, arms = find(name, targets)
        if target.name not in chosen:
            raise InputError(
                f"--target-extra-arg {text!r}: {target.name} is not among the targets of this run"
            )
        one = chosen[target.name]
        if not set(arms) & set(one.arms):
            raise InputError(f"--target-extra-arg {text!r}: that arm is not among the targets of this run")
        if name in seen:
            raise InputError(f"--target-extra-arg names {name} twice", hint="put all of its flags into one")
        seen.add(name)
        for arm in arms:
            one.flags.setdefault(arm, []).extend(words)


def parse_extra(text: str) -> tuple[str, list[str]]:
    """`name=--flag v` into the name and its words, as a shell splits them. The first `=` counts."""
    name, equals, flags = text.partition("=")
    if not equals or not name.strip() or not flags.strip():
        raise InputError(f"--target-extra-arg {text!r} is not NAME=FLAGS", hint="write name='--flag value'")
    try:
        return name.strip(), shlex.split(flags)
    except ValueError as error:
        raise InputError(
            f"--target-extra-arg {text!r}: {str(error).lower()}", hint="quotes come in pairs"
        ) from None
