"""Puts mutations to the checks and to the proofs that the unmutated profile gives.

Nothing here compares a file, or a bundle, with the original one: a mutation is read from its file as any
foreign bundle is, then checked and simulated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from equivalent import reason
from mutate_dashboards import dashboard_mutations
from mutate_rules import rule_mutations
from mutation import Mutation

from monitorgen.build import Built, build, load_catalogs
from monitorgen.bundle import Bundle
from monitorgen.checks import Context, run
from monitorgen.errors import InputError
from monitorgen.profile import load_profile
from monitorgen.prove.adopt import adopted
from monitorgen.prove.focus import Rules, names_in
from monitorgen.prove.ledger import Ledger
from monitorgen.prove.promtool import Promtool
from monitorgen.prove.scenarios import plan_tests
from monitorgen.prove.simulate import focus_on, simulate
from monitorgen.readers import read_folder
from monitorgen.targets.files import bundle_files


class _Plain(yaml.SafeDumper):
    """Writes what stands there twice twice, as a person would, and not as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(frozen=True)
class Verdict:
    """What noticed a mutation: the first finding, the first proof that failed; "" where nothing did."""

    mutation: Mutation
    static: str
    simulated: str = ""
    was_simulated: bool = False

    @property
    def caught(self) -> bool:
        return bool(self.static or self.simulated)


class Bench:
    """A profile's written files, and what is asked of each changed one."""

    def __init__(self, profile: str, folder: Path, promtool: Path | None) -> None:
        self.built: Built = build(load_profile(profile))
        self.folder = folder
        self.tools = [Promtool(str(promtool))] if promtool else []
        self.catalogs = dict(load_catalogs(self.built.loaded))
        files = bundle_files(self.built.bundle)
        self.texts = {
            name: text for name, text in files.items() if name.startswith(("rules/", "dashboards/"))
        }
        for name, text in files.items():
            self._write(folder / "whole" / name, text)
        self.whole = adopted(read_folder(folder / "whole"), self.built.bundle)

    @cached_property
    def trees(self) -> dict[str, Any]:
        """The parsed files that get mutated."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return {
            name: json.loads(text) if name.endswith(".json") else yaml.load(text, loader)
            for name, text in self.texts.items()
        }

    @cached_property
    def plan(self) -> Any:
        """The unmutated profile's proofs."""
        return plan_tests(self.built)

    @cached_property
    def mutations(self) -> tuple[Mutation, ...]:
        """All mutations of all files that anybody could observe."""
        return tuple(one for one in self._enumerated() if not self._reason(one))

    @cached_property
    def excluded(self) -> Counter[str]:
        """How many mutations are left out, by the reason why nobody could observe them."""
        return Counter(why for one in self._enumerated() if (why := self._reason(one)))

    def _enumerated(self) -> Iterator[Mutation]:
        for name, tree in self.trees.items():
            yield from (dashboard_mutations if name.endswith(".json") else rule_mutations)(name, tree)

    def _reason(self, mutation: Mutation) -> str:
        return reason(mutation, mutation.original(self.trees[mutation.file]))

    def judge(self, mutation: Mutation, *, always_simulate: bool = False) -> Verdict:
        """Check a mutation; simulate it if no check complains, or if that is wanted anyhow."""
        try:
            bundle = self.mutated(mutation)
        except InputError as error:
            return Verdict(mutation, f"unreadable: {error}")
        static = self.findings(bundle)
        if static and not (always_simulate and mutation.item):
            return Verdict(mutation, static)
        return Verdict(mutation, static, self.failures(mutation.item, bundle), bool(mutation.item))

    def mutated(self, mutation: Mutation) -> Bundle:
        """The bundle as it is read back, with the mutated file in place of the original one."""
        tree = mutation.applied(self.trees[mutation.file])
        folder = self.folder / "mutated"
        path = folder / mutation.file
        as_yaml = path.suffix == ".yaml"
        text = yaml.dump(tree, Dumper=_Plain, sort_keys=False) if as_yaml else json.dumps(tree)
        self._write(path, text)
        try:
            read = read_folder(folder)
        finally:
            path.unlink()
        groups = [*(group for group in self.whole.groups if group.file != mutation.file), *read.groups]
        boards = [*(one for one in self.whole.dashboards if one.file != mutation.file), *read.dashboards]
        both = replace(self.whole, groups=tuple(groups), dashboards=tuple(boards))
        return adopted(both, self.built.bundle)

    def findings(self, bundle: Bundle) -> str:
        """What the checks say first; "" if they say nothing that counts."""
        labels = {label for job in bundle.scrape_jobs for label, _ in job.labels}
        context = Context(bundle, self.catalogs, target_labels={"job", "instance"} | labels)
        return next((str(finding) for finding in run(context) if finding.severity != "info"), "")

    def failures(self, item: str, bundle: Bundle) -> str:
        """The first proof that fails: of the item itself, or else of what rests on it."""
        if not item or not self.tools:
            return ""
        for items in ({item}, self.above(item) - {item}):
            plan = replace(self.plan, tests=focus_on(self.plan.tests, items), reasons={})
            ledger = Ledger(bundle.name, tuple(sorted(items)))
            if plan.tests:
                simulate(plan, bundle, self.tools, ledger)
            if ledger.failed:
                proof = ledger.failed[0]
                return f"{proof.item}: {proof.claim}: {' '.join(proof.answer.split())[:120]}"
        return ""

    def above(self, item: str) -> set[str]:
        """The alerts, panels and records that read a record, through others too."""
        name = item.removeprefix("record/")
        if name == item:
            return set()
        rules = Rules(self.whole)
        found = set()
        for other in (*self.whole.recording_rules, *self.whole.alerts):
            if name in self._read_by(rules, names_in(other.expr)):
                found.add(other.id)
        for board in self.whole.dashboards:
            for panel in board.panels:
                names = [name for query in panel.queries for name in names_in(query.expr)]
                if name in self._read_by(rules, names):
                    found.add(board.panel_item(panel))
        return found

    def _read_by(self, rules: Rules, names: Iterable[str]) -> set[str]:
        chosen, _ = rules.closure(names, ())
        return {rule.record for rule in self.whole.recording_rules if id(rule) in chosen}

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
