"""JSON whose objects know where they stand in the file; duplicate keys, NaN and deep nesting are refused."""

from __future__ import annotations

import json
import json.decoder
import json.scanner
from collections.abc import Callable
from typing import Any

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.readers.source import Source


class JsonTree:
    """A parsed JSON file. `place(obj)` is where one of its objects begins."""

    def __init__(self, source: Source) -> None:
        """Parse the file. InputError with line and column where it is not JSON."""
        self.source = source
        self._starts: dict[int, int] = {}
        try:
            self.root: Any = _Decoder(self._starts, source).decode(source.text)
        except json.JSONDecodeError as error:
            place = Origin(source.name, error.lineno, error.colno)
            raise InputError(f"is not JSON: {error.msg}", origin=place) from error
        except RecursionError as error:
            raise InputError("is nested too deeply", origin=Origin(source.name)) from error
        except ValueError as error:  # a number of thousands of digits
            raise InputError(f"is not JSON: {error}", origin=Origin(source.name)) from error

    def place(self, tree: Any, path: str = "") -> Origin:
        """Where an object of this tree begins; the file alone for anything else."""
        start = self._starts.get(id(tree))
        return self.source.at(start, path) if start is not None else Origin(self.source.name, path=path)


class _Decoder(json.JSONDecoder):
    """Python's decoder in Python, so that each object's start can be noted. Strings are still read in C."""

    def __init__(self, starts: dict[int, int], source: Source) -> None:
        super().__init__(parse_constant=lambda text: self._refuse(text))
        self._source = source
        self._starts = starts
        self.parse_object: Callable[..., Any] = self._object
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _object(self, position: tuple[str, int], *rest: Any) -> tuple[dict[str, Any], int]:
        start = position[1] - 1
        strict, scan_once, _hook, _pairs_hook, memo = (*rest, {})[:5]
        pairs, end = json.decoder.JSONObject(  # type: ignore[attr-defined]
            position, strict, scan_once, None, list, memo
        )
        tree = dict(pairs)
        if len(tree) != len(pairs):
            names = [key for key, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            place = self._source.at(start)
            raise InputError(
                f"the key {twice!r} stands twice in this object", origin=place, hint="remove one"
            )
        self._starts[id(tree)] = start
        return tree, end

    def _refuse(self, text: str) -> Any:
        raise ValueError(f"{text} is not a number in JSON")
