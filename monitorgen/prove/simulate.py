"""Simulated proofs: unit tests generated from a profile, run by promtool against a bundle's files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from monitorgen.bundle import Bundle, RuleGroup
from monitorgen.promql import parse_duration
from monitorgen.prove.focus import Rules, focused
from monitorgen.prove.leaving import workfolder
from monitorgen.prove.ledger import Ledger, Proof
from monitorgen.prove.promtool import Answer, Promtool
from monitorgen.prove.scenarios import TestPlan, bound
from monitorgen.prove.unittests import (
    Ask,
    Fires,
    UnitTest,
    asked_expr,
    clock,
    quoted,
    render_file,
)
from monitorgen.targets.prometheus import rule_files

Progress = Callable[[str, int, int], None]


def simulate(
    tests: TestPlan,
    bundle: Bundle,
    promtools: Iterable[Promtool],
    ledger: Ledger,
    *,
    progress: Progress | None = None,
) -> None:
    """Run the tests against the rules and panels of `bundle` and enter what came back into the ledger."""
    ready, missing = bound(tests.tests, bundle)
    for item, reason in tests.reasons.items():
        ledger.unproven(item, "simulated", reason)
    for item, reason in missing.items():
        ledger.add([Proof(item, "simulated", "the panel is there", False, "the dashboard", answer=reason)])
    tools = list(promtools)
    if not tools:
        for item in ledger.items:
            ledger.unproven(
                item, "simulated", "promtool was not found; install Prometheus, or give --promtool"
            )
        return
    rules = Rules(bundle)
    with workfolder() as folder:
        batches = [
            (batch, _write(folder, number, batch, rules)) for number, batch in enumerate(_batches(ready))
        ]
        _run(batches, tools, ledger, progress)


def _run(
    batches: list[tuple[list[UnitTest], Path]],
    tools: list[Promtool],
    ledger: Ledger,
    progress: Progress | None,
) -> None:
    """Ask every promtool about every batch, several batches a process: a start costs as much as a test."""
    workers = os.cpu_count() or 1
    shares = _shares(batches, 2 * workers if len(tools) == 1 else workers)
    jobs = [(tool, share) for tool in tools for share in shares]
    total, done = len(batches) * len(tools), 0
    with ThreadPoolExecutor(max_workers=workers) as pool:
        answers = pool.map(lambda job: job[0].test_rules([file for _, file in job[1]]), jobs)
        for (tool, share), said in zip(jobs, answers, strict=True):
            for (batch, _), answer in zip(share, said, strict=True):
                _enter(batch, answer, tool, ledger)
            done += len(share)
            if progress:
                progress(f"promtool {tool.version}", done, total)


def _shares(
    batches: list[tuple[list[UnitTest], Path]], count: int
) -> list[list[tuple[list[UnitTest], Path]]]:
    """The batches in at most so many shares of about equal work, which the files' sizes stand for."""
    shares: list[list[tuple[list[UnitTest], Path]]] = [[] for _ in range(count)]
    loads = [0] * count
    for size, batch in sorted(((batch[1].stat().st_size, batch) for batch in batches), key=lambda b: -b[0]):
        least = loads.index(min(loads))
        shares[least].append(batch)
        loads[least] += size
    return [share for share in shares if share]


def focus_on(tests: Iterable[UnitTest], items: set[str]) -> list[UnitTest]:
    """The tests that say something of `items`, with nothing else in them."""
    kept = []
    for test in tests:
        asks = [ask for ask in test.asks if ask.item in items]
        fires = [fire for fire in test.fires if fire.item in items]
        if asks or fires:
            kept.append(UnitTest(test.name, test.step, test.courses, asks, fires))
    return kept


def _batches(tests: list[UnitTest]) -> list[list[UnitTest]]:
    """Tests that can share a file of rules: each alert's scenarios, and each test of values."""
    batches: dict[str, list[UnitTest]] = {}
    for test in tests:
        key = test.fires[0].alert if test.fires else test.name
        batches.setdefault(key, []).append(test)
    return list(batches.values())


def _write(folder: Path, number: int, tests: list[UnitTest], rules: Rules) -> Path:
    """Write a batch with exactly the rules and series that it needs; the test file's path."""
    needed: dict[str, RuleGroup] = {}
    small = []
    for test in tests:
        reduced, groups = focused(test, rules)
        small.append(reduced)
        for group in groups:
            both = {id(rule) for rule in (*needed.get(group.name, group).rules, *group.rules)}
            needed[group.name] = next(g for g in rules.subset(both) if g.name == group.name)
    ordered = [needed[group.name] for group in rules.groups if group.name in needed]
    files = rule_files(tuple(replace(group, file=f"{number}.rules.yaml") for group in ordered))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    path = folder / f"{number}.test.yaml"
    path.write_text(
        render_file(small, files, [group.name for group in ordered], tests[0].step), encoding="utf-8"
    )
    return path


def _enter(tests: list[UnitTest], answer: Answer, tool: Promtool, ledger: Ledger) -> None:
    """One proof for each item, claim and promtool: it holds unless promtool names it among its failures."""
    source = f"promtool {tool.version}"
    # Times are compared as seconds: what is written as 75m comes back as 1h15m.
    failed = {(f.test, f.subject, parse_duration(f.time)): f.text or "failed" for f in answer.failures}
    seen: set[tuple[str, str, float]] = set()
    for test in tests:
        claims: list[Ask | Fires] = [*test.asks, *test.fires]
        for one in claims:
            asked = asked_expr(one) if isinstance(one, Ask) else one.alert
            said = {quoted(asked), _go_quoted(asked)} if isinstance(one, Ask) else {asked}
            # Of an expression promtool does not say which test it is of: tests that share one share its fate.
            keys = {(name, subject, one.time) for subject in said for name in ("", test.name)}
            seen |= keys
            text = next((failed[key] for key in keys if key in failed), answer.trouble)
            said_of_it = text or "as expected"
            ledger.add(
                [
                    Proof(
                        one.item, "simulated", one.claim, not text, source, asked, said_of_it, clock(one.time)
                    )
                ]
            )
    for (name, subject, time), text in failed.items():
        if (name, subject, time) not in seen:
            # A failure that cannot be laid at one item's door is laid at the test's: nothing is hidden.
            named = {item for test in tests if test.name == name for item in test.items}
            for item in sorted(named or {item for test in tests for item in test.items}):
                claim = name or "all that was asked holds"
                ledger.add([Proof(item, "simulated", claim, False, source, subject, text, clock(time))])


def _go_quoted(text: str) -> str:
    """A string as Go's %q prints it, where that differs from JSON's."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
