"""The mutation test: mistakes in the written rules and dashboards do not get past the checks and the proofs.

How it works: `mutate_rules` and `mutate_dashboards` list what a person could get wrong in the files that
`monitorgen build --profile optimized` writes, one change of one parsed file at a time: some 5000. Those that
nobody could observe are left out, each for a reason (`equivalent`). A sample, the same one every time, is
written, read back and put to the checks, and to the simulated proofs that the unmutated profile gives
(`mutation_bench`); no file and no text is compared with the original. Sizes are those of slips: a number
doubled, halved, half as much again or ten times; a window or a `for` in another unit; never one per cent.

    pytest tests/mutations                                   the sample, and a table of what caught what
    MONITORGEN_ALL_MUTATIONS=1 pytest -n 2 tests/mutations   all of them, some twenty minutes

What survives stands in EXPLAINED with its reason; the test fails for any other survivor, and for an
explained one that is caught by now. Not mutated: looks (colours, sizes, places, line widths), and prose
outside annotations.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from mutation import Mutation, sample
from mutation_bench import Bench, Verdict

from monitorgen.prove.ledger import Ledger
from monitorgen.prove.promtool import Promtool
from monitorgen.prove.simulate import simulate

EVERYTHING = bool(os.environ.get("MONITORGEN_ALL_MUTATIONS"))
QUOTA = 6
QUOTAS = {
    "threshold changed": 12,
    "window changed": 10,
    "`for` changed": 10,
    "metric renamed": 10,
    "grouping label removed": 8,
    "grouping label renamed": 6,
    "matcher removed": 8,
    "matcher operator": 8,
    "matcher value": 6,
    "comparison flipped": 8,
    "quantile changed": 8,
    "aggregation changed": 8,
    "function changed": 8,
    "template brace broken": 8,
    "legend changed": 8,
    "panel unit": 8,
    "panel step": 8,
    "variable query": 6,
}

#: Kinds of mistakes, in as many tests as can share the work.
SHARDS = {
    "names": {
        "metric renamed",
        "recorded name changed",
        "other quantile read",
        "expression pasted",
        "rule deleted",
        "rule repeated",
        "alert renamed",
        "label put on a recording",
    },
    "labels": {
        "grouping label removed",
        "grouping label renamed",
        "matcher removed",
        "matcher operator",
        "matcher value",
        "matcher label",
    },
    "numbers": {
        "threshold changed",
        "quantile changed",
        "constant changed",
        "comparison flipped",
        "comparison lets the limit pass",
    },
    "times": {"window changed", "`for` changed", "rate interval replaced", "group interval"},
    "operators": {
        "aggregation changed",
        "function changed",
        "arithmetic operator",
        "quotient upside down",
        "guard dropped",
        "set operator changed",
        *(
            f"{word}: {what}"
            for word in ("or", "and", "unless")
            for what in ("left side dropped", "right side dropped")
        ),
        *(f"{word}: sides swapped" for word in ("or", "and", "unless")),
    },
    "annotations": {
        "annotation removed",
        "annotation misspelt",
        "template brace broken",
        "template label renamed",
        "template value renamed",
        "humanizer changed",
        "runbook changed",
        "severity changed",
    },
    "panels": {
        "panel deleted",
        "panel title",
        "panel description",
        "panel type",
        "panel datasource",
        "panel unit",
        "panel step",
        "panel axis",
        "query deleted",
        "query empty",
        "query datasource",
        "query format",
        "legend changed",
        "refId changed",
    },
    "variables": {
        "dashboard editable",
        "dashboard nameless",
        "variable deleted",
        "variable renamed",
        "variable of another kind",
        "variable query",
        *(
            f"variable: {key}"
            for key in ("multi", "includeAll", "allValue", "label", "refresh", "datasource")
        ),
    },
}
#: What changes values or times: simulated even where a check complains, to see what proofs catch alone.
SEMANTIC = (
    SHARDS["labels"] | SHARDS["numbers"] | SHARDS["times"] | SHARDS["operators"] | {"other quantile read"}
)

EXPLAINED = {
    "comparison lets the limit pass: alert/QueueStalled/critical: > 50 to >=": (
        "no scenario makes a sum of two averages read its threshold to the last bit"
    ),
}


@pytest.fixture(scope="session")
def bench(promtools, tmp_path_factory) -> Bench:
    newest = max(
        promtools, key=lambda path: [int(n) for n in Promtool(str(path)).version.split(".") if n.isdigit()]
    )
    return Bench("optimized", tmp_path_factory.mktemp("mutations"), newest)


def chosen(bench: Bench) -> list[Mutation]:
    return (
        list(bench.mutations) if EVERYTHING else sample(bench.mutations, lambda kind: QUOTAS.get(kind, QUOTA))
    )


def table(verdicts: list[Verdict]) -> Iterator[list[str | int]]:
    """A row for each kind: how many, and what caught them (see the titles in conftest.py)."""
    for kind in sorted({verdict.mutation.kind for verdict in verdicts}):
        of_kind = [verdict for verdict in verdicts if verdict.mutation.kind == kind]
        simulated = [verdict for verdict in of_kind if verdict.was_simulated and kind in SEMANTIC]
        yield [
            kind,
            len(of_kind),
            sum(bool(verdict.static) for verdict in of_kind),
            sum(not verdict.static and bool(verdict.simulated) for verdict in of_kind),
            sum(not verdict.caught for verdict in of_kind),
            len(simulated),
            sum(bool(verdict.simulated) for verdict in simulated),
        ]


def test_what_is_not_mutated_passes(bench):
    assert bench.findings(bench.whole) == ""
    ledger = Ledger("whole", tuple(bench.whole.items))
    simulate(replace(bench.plan), bench.whole, bench.tools, ledger)
    assert [f"{proof.item}: {proof.claim}" for proof in ledger.failed] == []
    assert ledger.counts("simulated")["proven"] > 60


def test_there_are_enough_mutations_and_each_is_in_one_shard(bench):
    keys = Counter(mutation.key for mutation in bench.mutations)
    assert keys.most_common(1)[0][1] == 1
    assert len(keys) >= 400
    assert len(chosen(bench)) >= 260
    kinds = Counter(kind for shard in SHARDS.values() for kind in shard)
    assert set(kinds) == {mutation.kind for mutation in bench.mutations}
    assert set(kinds.values()) == {1}


def test_few_mutations_are_excluded_or_explained(bench):
    keys = {mutation.key for mutation in bench.mutations}
    assert set(EXPLAINED) <= keys, "explained, but no mutation any more"
    # All that is explained is tried every time, whether the sample holds it or not.
    assert len(EXPLAINED) <= 0.02 * len({one.key for one in chosen(bench)} | set(EXPLAINED))
    assert sum(bench.excluded.values()) <= 0.04 * len(keys), bench.excluded


@pytest.mark.parametrize("shard", SHARDS)
def test_mutations_are_caught(bench, shard, record_property):
    explained = [one for one in bench.mutations if one.key in EXPLAINED]
    found = {one.key: one for one in (*chosen(bench), *explained)}
    picked = [one for one in found.values() if one.kind in SHARDS[shard]]
    verdicts = [bench.judge(one, always_simulate=one.kind in SEMANTIC) for one in picked]
    record_property("mutations", list(table(verdicts)))
    survivors = {verdict.mutation.key for verdict in verdicts if not verdict.caught}
    expected = {one.key for one in picked if one.key in EXPLAINED}
    assert sorted(survivors - expected) == [], "no check and no proof noticed these"
    assert sorted(expected - survivors) == [], "these are caught: take them out of EXPLAINED"
    simulated = [verdict for verdict in verdicts if verdict.was_simulated]
    if SHARDS[shard] <= SEMANTIC:
        # The checks know names and conventions; what a rule yields is seen by the proofs alone.
        assert sum(bool(verdict.simulated) for verdict in simulated) >= 0.8 * len(simulated)
