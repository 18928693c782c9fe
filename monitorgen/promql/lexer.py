"""Tokens of a PromQL text with their places. promql-parser keeps no positions, so these carry them."""

from __future__ import annotations

import re
from typing import NamedTuple


class Token(NamedTuple):
    """A piece of the text: ident, number, duration, string, op, open (a quote that never ends) or bad."""

    kind: str
    text: str
    start: int
    end: int

    def is_op(self, *texts: str) -> bool:
        """Is it one of these operators or brackets."""
        return self.kind == "op" and self.text in texts

    def is_word(self, *words: str) -> bool:
        """Is it one of these keywords (lower case), in whatever case it was written."""
        return self.kind == "ident" and self.text.lower() in words


END = Token("end", "", -1, -1)

_COMMON = r"""
    (?:\s+|\#[^\n]*)*+
    (?: (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`[^`]*`)
  | (?P<open>["'`].*)
  | (?P<duration>\d+(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*(?![A-Za-z0-9_]))
  | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
"""
_OPERATORS = r"""
  | (?P<op>==|!=|<=|>=|=~|!~|[-+*/%^<>=@,(){}\[\]:])
  | (?P<bad>.) )
"""
_FLAGS = re.VERBOSE | re.DOTALL | re.ASCII
_ANYWHERE = re.compile(_COMMON + r"| (?P<ident>[A-Za-z_:][A-Za-z0-9_:]*)" + _OPERATORS, _FLAGS)
# Inside [5m:1m] a colon parts range and step; elsewhere it belongs to a metric's name.
_IN_BRACKETS = re.compile(_COMMON + r"| (?P<ident>[A-Za-z_][A-Za-z0-9_]*)" + _OPERATORS, _FLAGS)


def lex(text: str) -> tuple[Token, ...]:
    """All tokens of `text`, without spaces and comments; what is no token has kind `open` or `bad`."""
    tokens: list[Token] = []
    position, pattern = 0, _ANYWHERE
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:  # only spaces and comments are left: `bad` takes any other character
            break
        kind = match.lastgroup or "bad"
        piece = match[kind]
        start, position = match.span(kind)
        tokens.append(Token(kind, piece, start, position))
        if piece == "[":
            pattern = _IN_BRACKETS
        elif piece == "]":
            pattern = _ANYWHERE
    return tuple(tokens)


def number(text: str) -> float:
    """The value of a number token."""
    return float(int(text, 16)) if text[:2] in ("0x", "0X") else float(text)


_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))", re.ASCII
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unquote(quoted: str) -> str:
    """The value of a string token."""
    body = quoted[1:-1]
    if quoted[0] == "`" or "\\" not in body:
        return body
    return _ESCAPE.sub(_unescape, body)


def _unescape(match: re.Match[str]) -> str:
    simple, byte, short, long, octal = match.groups()
    if simple:
        return _SIMPLE.get(simple, simple)
    code = int(octal, 8) if octal else int(byte or short or long, 16)
    return chr(code) if code < 0x110000 else "\ufffd"


_PLAIN = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\x00"})


def quote(value: str) -> str:
    """`value` as a double-quoted PromQL string."""
    return f'"{value.translate(_PLAIN)}"'
