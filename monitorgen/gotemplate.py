"""Reading the Go templates in annotations and labels: what is wrong with them, and what they use.

This is as much of Go's text/template as Prometheus' own syntax check knows: balanced braces and blocks, known
functions, defined variables. Nothing is rendered here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_GO = "and or not len index slice print printf println html js urlquery call eq ne lt le gt ge true false nil"
_PROMETHEUS = (
    "query first label value strvalue args reReplaceAll safeHtml match title toUpper toLower graphLink "
    "tableLink sortByLabel stripPort stripDomain humanize humanize1024 humanizeDuration humanizePercentage "
    "humanizeTimestamp toTime pathPrefix tmpl externalURL parseDuration"
)
#: What a template may call; newer servers know more, Prometheus 2.42 does not.
FUNCTIONS = frozenset(f"{_GO} {_PROMETHEUS}".split())
_VARIABLES = frozenset({"$", "$labels", "$value", "$externalLabels", "$externalURL"})
_OPENERS = frozenset({"if", "range", "with", "define", "block"})

_TOKEN = re.compile(
    r"""\s+ | (?P<text>"(?:\\.|[^"\\])*"|`[^`]*`|'(?:\\.|[^'\\])+') | (?P<variable>\$\w*) (?P<path>(?:\.\w+)*)
    | (?P<field>\.\w+(?:\.\w+)*|\.) | (?P<number>[-+]?\d[\w.+-]*) | (?P<word>[A-Za-z_]\w*)
    | (?P<mark>:=|[|(),=]) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ACTION = re.compile(r'\{\{-?(?P<inner>(?:"(?:\\.|[^"\\])*"|`[^`]*`|/\*.*?\*/|[^"`])*?)-?\}\}', re.DOTALL)
_SINGLE = re.compile(r"\{\s*[$.]?\s*(?:labels\b|value\b|externalLabels\b|\$\w+)[^{}]*\}", re.IGNORECASE)
_JINJA = re.compile(r"\[\[|\]\]|\[%|%\]|\{%|%\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template read: problems as sentences, labels used, and the functions of each printed value."""

    problems: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


@lru_cache(maxsize=4096)
def read(text: str) -> Template:
    """Read a template; it never fails, what is wrong is in `problems`."""
    reader = _Reader()
    end = 0
    for found in _ACTION.finditer(text):
        reader.plain(text[end : found.start()])
        reader.action(found["inner"])
        end = found.end()
    reader.plain(text[end:])
    reader.close()
    return Template(tuple(reader.problems), tuple(dict.fromkeys(reader.labels)), tuple(reader.values))


class _Reader:
    """Collects what one template uses and does wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.labels: list[str] = []
        self.values: list[tuple[str, ...]] = []
        self.blocks: list[str] = []
        self.variables = set(_VARIABLES)
        self.open_braces = 0

    def plain(self, text: str) -> None:
        """The text between actions: braces left in it are mistakes."""
        for found in _SINGLE.finditer(text):
            self.problems.append(f"{found.group()!r} has single braces and is printed as it stands")
        rest = _SINGLE.sub("", text)
        self.open_braces += rest.count("{") - rest.count("}")
        if "{{" in rest:
            self.problems.append("'{{' is never closed by '}}'")
        elif "}}" in rest:
            self.problems.append("'}}' closes nothing")
        elif "$labels" in rest or "$value" in rest:
            self.problems.append("'$labels' or '$value' stands outside of '{{ }}', and is printed")
        if jinja := _JINJA.search(rest):
            self.problems.append(f"{jinja.group()!r} of the profile's templates was not rendered")

    def close(self) -> None:
        """The end of the text: everything that was opened must be closed."""
        if self.blocks:
            self.problems.append(f"{{{{ {self.blocks[-1]} }}}} has no {{{{ end }}}}")
        if self.open_braces and not self.problems:
            self.problems.append("a brace outside of '{{ }}' has no partner and is printed as it stands")

    def action(self, inner: str) -> None:
        """What stands between `{{` and `}}`."""
        if inner.strip().startswith("/*"):
            return
        tokens = [
            _Token(kind, found.group().strip())
            for found in _TOKEN.finditer(inner)
            if (kind := "variable" if found["variable"] else found.lastgroup or "")
        ]
        if not tokens:
            self.problems.append("'{{ }}' is empty")
            return
        value = self._definition(self._keyword(tokens))
        if sum(t.text == "(" for t in tokens) != sum(t.text == ")" for t in tokens):
            self.problems.append(f"parentheses in '{{{{{inner}}}}}' do not match")
        self._pipeline(value, printed=value is tokens)

    def _keyword(self, tokens: list[_Token]) -> list[_Token]:
        """Handle `if`, `else`, `end` and the like; what is left is a pipeline."""
        word = tokens[0].text if tokens[0].kind == "word" else ""
        if word in _OPENERS:
            self.blocks.append(word)
            return tokens[1:]
        if word in ("else", "end"):
            if not self.blocks:
                self.problems.append(f"{{{{ {word} }}}} belongs to no block")
            elif word == "end":
                self.blocks.pop()
            rest = tokens[1:]
            return rest[1:] if word == "else" and rest and rest[0].text in ("if", "with") else rest
        return tokens[1:] if word in ("template", "break", "continue") else tokens

    def _definition(self, tokens: list[_Token]) -> list[_Token]:
        """Remember the variables that the action defines; what is left is the value."""
        marks = [index for index, token in enumerate(tokens) if token.text == ":="]
        if not marks:
            return tokens
        self.variables.update(token.text for token in tokens[: marks[0]] if token.kind == "variable")
        return tokens[marks[0] + 1 :]

    def _pipeline(self, tokens: list[_Token], *, printed: bool) -> None:
        """Look at each command of a pipeline, and at what becomes of the value in it if it is printed."""
        calls: list[str] = []
        has_value = False
        for index, token in enumerate(tokens):
            if token.kind == "word":
                calls.append(token.text)
                if token.text not in FUNCTIONS:
                    self.problems.append(f"there is no function {token.text!r} in Prometheus 2.42 templates")
            elif token.kind in ("variable", "field"):
                has_value |= self._name(token, tokens[index + 1 :])
            elif token.kind == "other":
                self.problems.append(f"{token.text!r} is not allowed inside '{{{{ }}}}'")
        if has_value and printed:
            self.values.append(tuple(calls))

    def _name(self, token: _Token, after: list[_Token]) -> bool:
        """Note a variable or field; whether it is the alert's value."""
        name, _, path = token.text.partition(".") if token.kind == "variable" else ("$", ".", token.text[1:])
        if token.kind == "field" and {"range", "with", "define", "block"} & set(self.blocks):
            return False  # the dot is something else there
        if name not in self.variables:
            self.problems.append(f"the variable {name} is not defined")
        if name == "$":
            name, _, path = path.partition(".")
            name = {"Labels": "$labels", "Value": "$value"}.get(name, "")
        if name == "$labels" and path:
            self.labels.append(path)
        elif name == "$labels" and after and after[0].kind == "text":
            self.labels.append(after[0].text[1:-1])
        return name == "$value"
