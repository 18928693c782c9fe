"""Reading annotations' templates: what they use, and that no text breaks the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitorgen.gotemplate import read


@pytest.mark.parametrize(
    ("text", "labels", "values"),
    [
        ("{{ $labels.instance }} is at {{ $value | humanize }}", ("instance",), (("humanize",),)),
        ('{{ index $labels "job" }}', ("job",), ()),
        ("{{ .Labels.job }} {{ .Value }}", ("job",), ((),)),
        ('{{ printf "%.1f" $value | title }}', (), (("printf", "title"),)),
        ("{{ if gt $value 5.0 }}{{ $labels.a }}{{ else if $value }}{{ $labels.b }}{{ end }}", ("a", "b"), ()),
        ('{{ with query "up" }}{{ .Labels.x }}{{ end }}', (), ()),
        ("{{ $v := $value }}{{ $v | humanize }}", (), ()),
        ("no template at all: 5 > 3, 100%", (), ()),
        ('{{ printf "}}" }}{{/* {{ $labels.x */}}', (), ()),
    ],
)
def test_a_valid_template_tells_what_it_uses(text, labels, values):
    template = read(text)
    assert template.problems == ()
    assert template.labels == labels
    assert template.values == values


# Each is refused, or printed as it stands, by Prometheus.
@pytest.mark.parametrize(
    "text",
    [
        "{ $labels.job }",
        "{{ $labels.job }",
        "{ $labels.job }}",
        "{{{ $labels.job }}",
        "{{ $labels.job }}}",
        "{{ $label.job }}",
        "{{ $labels.job | humanise }}",
        "{{ end }}",
        "{{ if $value }}",
        "{{ range query `up` }}{{ else }}",
        "{{ }}",
        "{{ $labels.a-b }}",
        "{{ (humanize $value }}",
        "{%if x %}",
        "$labels.job",
    ],
)
def test_a_broken_template_has_a_problem(text):
    assert read(text).problems


_PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{",
        "}",
        "$labels",
        ".x",
        "$value",
        "|",
        "humanize",
        "if",
        "end",
        "else",
        '"',
        "`",
        " ",
        "(",
        ")",
        ":=",
    ]
)


@given(st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=25).map("".join))
def test_any_text_can_be_read(text):
    template = read(text)
    assert all(isinstance(problem, str) and problem for problem in template.problems)
    if "{" not in text and "}" not in text:
        assert template.labels == ()


@given(
    st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), st.sampled_from(["humanize", "humanizeDuration"])
)
def test_labels_and_functions_are_found_in_any_plain_template(label, function):
    template = read(f"{{{{ $labels.{label} }}}}: {{{{ $value | {function} }}}}")
    assert template == read(f"{{{{- $labels.{label} -}}}}: {{{{$value|{function}}}}}")
    assert (template.problems, template.labels, template.values) == ((), (label,), ((function,),))
