"""Whether two arms agree: what must be equal, what must be close, and what was not compared at all."""

from __future__ import annotations

import pytest

from monitorgen.kernels.agreement import compared, differences, digest
from monitorgen.kernels.workload import Outcome


def exact(**values):
    return Outcome(exact=values)


def close(values, tolerance=1e-3):
    return Outcome(close={"logits": (values, tolerance)})


CASES = [
    ("same", exact(a=[1, 2]), exact(a=(1, 2)), []),
    ("token", exact(a=[1, 2, 3]), exact(a=[1, 5, 3]), ["a[1]: 2, and 5"]),
    ("nested", exact(a={"x": [[1], [2]]}), exact(a={"x": [[1], [9]]}), ["a['x'][1][0]: 2, and 9"]),
    ("length", exact(a=[1, 2]), exact(a=[1]), ["a: 2 items, and 1"]),
    ("key", exact(a={"x": 1}), exact(a={"y": 1}), ["a['x']: 1, and None"]),
    ("missing", exact(a=1), exact(), ["a: one arm only reports it"]),
    ("nan", exact(a=[float("nan")]), exact(a=[float("nan")]), ["a[0]: nan, and nan"]),
    ("close", close([3.0, 4.0]), close([3.0, 4.004]), []),
    ("apart", close([3.0, 4.0]), close([3.0, 4.006]), ["logits: relative error 0.0012, at most 0.001"]),
    (
        "stricter",
        close([3.0, 4.0]),
        close([3.0, 4.004], 1e-4),
        ["logits: relative error 0.0008, at most 0.0001"],
    ),
    ("not a number", close([1.0]), close([float("nan")]), ["logits: relative error nan, at most 0.001"]),
    ("zeros", close([0.0]), close([0.0]), []),
    ("from zero", close([0.0]), close([0.5]), ["logits: relative error 0.5, at most 0.001"]),
    ("shorter", close([1.0, 2.0]), close([1.0]), ["logits: 2 numbers, and 1"]),
    ("not close", close([1.0]), exact(), ["logits: one arm only reports it"]),
]


@pytest.mark.parametrize(
    ("first", "second", "said"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_differences(first, second, said):
    assert differences(first, second) == said


def test_digest_is_of_exact_values():
    assert digest(exact(a=[1, 2])) == digest(exact(a=(1, 2)))
    assert digest(exact(a=[1, 2])) != digest(exact(a=[2, 1]))
    assert compared(Outcome(exact={"a": 1}, close={"b": ([1.0], 0.1)})) == 2
