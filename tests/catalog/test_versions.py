import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen import catalog
from monitorgen.catalog import matches, version_key
from monitorgen.catalog.versions import is_version
from monitorgen.errors import InputError


@pytest.mark.parametrize(
    ("version", "spec", "expected"),
    [
        ("0.9.2", ">=0.9, <0.33", True),
        ("0.9.0.1", ">=0.9", True),
        ("0.32.0", ">=0.9, <0.33", True),
        ("0.33.0", ">=0.9, <0.33", False),
        ("0.8.5", ">=0.9, <0.33", False),
        ("0.10.0", ">=0.9", True),  # numbers, not text
        ("0.9.2", "==0.9", True),
        ("0.9.2", "0.9", True),
        ("0.9.2", "0.9.*", True),
        ("0.9.2", "0.9.1", False),
        ("0.90.2", "0.9", False),
        ("0.9.2", "!=0.9", False),
        ("0.9.2", ">0.9", False),
        ("0.10.0", ">0.9", True),
        ("0.9.2", "<=0.9", True),
        ("0.9.2", "<=0.9.1", False),
        ("1", ">=1.0.0", True),
        ("0.9.2", "", True),
        ("0.32.0rc1", "0.32", True),
    ],
)
def test_ranges(version: str, spec: str, expected: bool) -> None:
    assert matches(version, spec) is expected


@pytest.mark.parametrize("spec", [">=", "0.9 <0.33", "=>0.9", "latest", "0..9", "~=0.9", ">=٠.٩"])
def test_what_is_no_range_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="is not a version range"):
        matches("0.9.2", spec)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4), min_size=2, max_size=2))
def test_an_order_has_one_side(pair: list[list[int]]) -> None:
    one, other = (".".join(map(str, numbers)) for numbers in pair)
    assert matches(one, f"<{other}") + matches(one, f">={other}") == 1
    assert matches(one, f">{other}") + matches(one, f"<={other}") == 1
    assert matches(one, f"=={other}") + matches(one, f"!={other}") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.32.0", True), ("2", True), ("0.32.0rc1", True), ("0.9+cpu", True), ("renames", False), ("0.", False)]
    + [(text, False) for text in ("", "v0.32", "0.32/..", "0.32 ", "-1")],
)
def test_what_a_version_looks_like(text: str, expected: bool) -> None:
    assert is_version(text) is expected


def test_versions_are_sorted_oldest_first_by_number() -> None:
    found = catalog.versions("vllm")
    assert list(found) == sorted(found, key=version_key)
    assert found.index("0.9.2") < found.index("0.10.0") < found.index("0.32.0")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("vllm@0.32", "0.32.0"),
        ("vllm@0.32.0", "0.32.0"),
        ("vllm@0.9", "0.9.2"),
        ("vllm@0.9.0.1", "0.9.0.1"),
        ("vllm", "0.32.0"),
        ("prometheus@2", "2"),
    ],
)
def test_references(reference: str, expected: str) -> None:
    assert catalog.resolve(reference).version == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("vllm@0.8", "no catalog of vllm 0.8"),
        ("vllm@", "names no version"),
        ("vllm@../x", "no catalog of vllm"),
        ("sglang@0.4", "neither a catalog nor a file"),
        ("", "neither a catalog nor a file"),
    ],
)
def test_references_to_nothing(reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.resolve(reference)


def test_an_unknown_engine_is_told_which_there_are() -> None:
    with pytest.raises(InputError, match="prometheus, vllm, workload"):
        catalog.versions("tgi")
