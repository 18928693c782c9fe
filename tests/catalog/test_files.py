"""Catalog files: written, read back, and refused with the place of what is wrong."""

import string
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from monitorgen import catalog
from monitorgen.catalog import store
from monitorgen.catalog.model import FAMILY_ORIGINS, FAMILY_TYPES, Catalog, Family
from monitorgen.catalog.store import dumps, from_plain, write
from monitorgen.catalog.units import UNITS
from monitorgen.catalog.userfile import read
from monitorgen.errors import InputError

NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=12)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EDGES = st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True, max_size=6).map(sorted)


@st.composite
def families(draw: st.DrawFn) -> Family:
    type_ = draw(st.sampled_from(FAMILY_TYPES))
    labels = tuple(sorted(draw(st.sets(NAMES, max_size=3))))
    return Family(
        name=draw(NAMES),
        type=type_,  # type: ignore[arg-type]
        unit=draw(st.sampled_from(["", *UNITS])),
        help=draw(TEXTS),
        labels=labels,
        values=MappingProxyType({label: (draw(TEXTS),) for label in labels[:1]}),
        buckets=tuple(draw(EDGES)) if type_ == "histogram" else (),
        origin=draw(st.sampled_from(FAMILY_ORIGINS)),  # type: ignore[arg-type]
        needs=draw(TEXTS),
        created=draw(st.booleans()),
    )


CATALOGS = st.lists(families(), max_size=4).map(
    lambda made: Catalog("test", "0.30", {family.name: family for family in made}, 'by "us"\n', recorded=True)
)


@settings(deadline=None)
@given(CATALOGS)
def test_what_is_written_is_read_back_by_any_yaml_reader(made: Catalog) -> None:
    text = dumps(made)
    for loader in {yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)}:
        assert from_plain(yaml.load(text, Loader=loader)) == made


def test_a_file_of_ours_is_read_back_by_people_s_reader(tmp_path: Path) -> None:
    made = catalog.load("vllm", "0.32")
    write(made, tmp_path / "mine.yaml")
    assert read(tmp_path / "mine.yaml") == made
    assert catalog.resolve(str(tmp_path / "mine.yaml")) == made
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_every_packaged_catalog_passes_the_checks_for_people_s_files() -> None:
    for engine in catalog.engines():
        for version in catalog.versions(engine):
            assert read(store.DATA / engine / f"{version}.yaml") == catalog.load(engine, version)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write(catalog.load("prometheus", "2"), tmp_path / "none" / "x.yaml")


GOOD = """\
engine: mine
version: 0.30
families:
  my_seconds:
    type: histogram
    unit: seconds
    labels: [kind]
    values: {kind: [a, "1"]}
    buckets: [0.1, 1e-1000, 5]
  my_total: {type: counter, created: true}
"""


def test_plain_yaml_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("1e-1000", "0.5"))
    found = read(path)
    assert (found.engine, found.version) == ("mine", "0.30")  # not the number 0.3
    assert found.families["my_seconds"].buckets == (0.1, 0.5, 5.0)
    assert found.families["my_seconds"].values["kind"] == ("a", "1")
    assert found.families["my_total"].created


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("", "", 9, "do not ascend"),
        ("1e-1000", "many", 9, "should be a valid number"),
        ("1e-1000", ".inf", 9, "should be a valid number"),
        ("1e-1000", "1e999", 9, "finite"),
        ("type: histogram", "typ: histogram", 5, "unknown key 'typ' (did you mean type?)"),
        ("type: histogram", "type: histo", 5, "should be 'counter', 'gauge', 'histogram'"),
        ("type: counter, ", "", 10, "'type' is missing"),
        ("unit: seconds", "unit: second", 6, "unknown unit 'second' (did you mean seconds"),
        ("my_total:", "my-total:", 10, "'my-total' is not a valid name"),
        ("[kind]", "[1kind]", 7, "'1kind' is not a valid name"),
        ("{kind:", "{knd:", 8, "values of 'knd'"),
        (
            "my_total: {type: counter",
            "my_total: {buckets: [1], type: counter",
            10,
            "only histograms have buckets",
        ),
        ("my_total", "my_seconds", 10, "'my_seconds' is given twice"),
        ("engine: mine", "engine: Mine!", 1, "is not a valid name"),
        ("engine: mine\n", "", 1, "'engine' is missing"),
        ("version: 0.30", "version: latest", 2, "'latest' is not a version"),
        ("version: 0.30", "version:", 2, "should be a valid string"),
        ("families:", "family:", 3, "unknown key 'family' (did you mean families?)"),
        ("[kind]", "&a [kind]", 7, "anchors and aliases"),
        ("[kind]", "*a", 7, "anchors and aliases"),
        ("[kind]", "[kind", 8, "not YAML"),
        ("[kind]", "[[[[[[[[[kind]]]]]]]]]", 7, "nested too deeply"),
        ("[kind]", "kind", 7, "should be a valid list"),
        ("my_total:", "? [a]\n  :", 10, "a key must be plain text"),
        (GOOD, "[]", 1, "a catalog is a mapping"),
        (GOOD, "", 1, "a catalog is a mapping"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    if old != "1e-1000" and old:
        path.write_text(path.read_text().replace("1e-1000", "0.5"))
    with pytest.raises(InputError) as caught:
        read(path)
    assert message in str(caught.value)
    assert caught.value.origin is not None
    assert (caught.value.origin.file, caught.value.origin.line) == (str(path), line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"engine: \xff", "not UTF-8"),
        (b"a: \x00", "not YAML"),
        (b"a" * (4 * 2**20 + 1), "larger than"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"--- {}\n--- {}\n", "a catalog is a mapping"),
    ],
)
def test_bodies_that_are_no_catalog(tmp_path: Path, body: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(body)
    with pytest.raises(InputError, match=message):
        read(path)


@settings(deadline=None)
@given(st.binary(max_size=120) | st.text(max_size=120).map(lambda text: text.encode("utf-8", "replace")))
def test_garbage_raises_nothing_but_input_errors(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.yaml"
    path.write_bytes(body)
    with pytest.raises(InputError):
        read(path)
