"""YAML as all our files have it: block style, the order of the keys kept, no aliases, every string safe.

Whatever a string holds, YAML 1.1 and 1.2 parsers, Python's and Go's, read the same string back.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

try:
    from yaml import CSafeDumper as _Base
except ImportError:  # pragma: no cover - PyYAML without libyaml
    from yaml import SafeDumper as _Base  # type: ignore[assignment]

# Words that some YAML parser takes for something else than a string, and what looks like a number to one.
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf", "~"})
_NUMBER = re.compile(r"[-+]?[0-9.]", re.ASCII)
_DURATION = re.compile(r"(?:[0-9]+(?:ms|[smhdw]))+", re.ASCII)  # no YAML parser takes 5m for a number
# Lines that a literal block holds unchanged in every parser: printable, no space at the ends of lines.
_LITERAL = re.compile(r" *[!-~](?:[ -~]*[!-~])?(?:\n(?:| *[!-~](?:[ -~]*[!-~])?))*\n?", re.ASCII)


class _Dumper(_Base):
    """PyYAML's safe dumper, with our strings and without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: Any, text: str) -> Any:
    style = None
    if "\n" in text and _LITERAL.fullmatch(text) and not text.endswith("\n\n"):
        style = "|"
    elif not text.isascii() or not text.isprintable():
        style = '"'
    elif text.lower() in _WORDS or (_NUMBER.match(text) and not _DURATION.fullmatch(text)):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _float(dumper: Any, number: float) -> Any:
    text = str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    tag = "int" if text.lstrip("-").isdigit() else "float"
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")  # YAML 1.1 takes 1e-09 for a string
    return dumper.represent_scalar(f"tag:yaml.org,2002:{tag}", text)


_Dumper.add_representer(str, _string)
_Dumper.add_representer(float, _float)


def yaml_text(tree: Any, *, header: str = "") -> str:
    """The tree (dicts, lists, strings, numbers, booleans) as YAML; `header` becomes comments above it."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    body: str = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=1_000_000,
        indent=2,
    )
    return comment + body
