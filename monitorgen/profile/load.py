"""Loading a profile: files, `extends`, overrides and validation, with a place in every error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.profile.explain import did_you_mean, explain
from monitorgen.profile.legacy import METRIC_KEYS
from monitorgen.profile.model import PROFILE_NAME, Profile
from monitorgen.profile.quantity import Quantity, parse_quantity
from monitorgen.profile.source import Document, KeyPath, merge, parse_document, read_document

PROFILES = "monitorgen.profiles"


@dataclass(frozen=True)
class Loaded:
    """A validated profile and where its parts stand."""

    profile: Profile
    document: Document
    name: str
    folder: Path

    def origin(self, *path: str | int) -> Origin:
        """The place of a key path."""
        return self.document.origin(tuple(path))

    def written(self, *path: str | int) -> bool:
        """Whether any file says something at a key path."""
        return tuple(path) in self.document.origins

    def shipped(self, origin: Origin) -> bool:
        """Whether a place is in a profile that ships with monitorgen."""
        return origin.file in {f"profiles/{name}.yaml" for name in builtin_names()}

    def threshold(self, name: str) -> Quantity:
        """A threshold as a quantity in its base unit."""
        return parse_quantity(self.profile.thresholds[name])


def builtin_folder() -> Path:
    """The folder of the profiles that ship with monitorgen."""
    from importlib.resources import files

    return Path(str(files(PROFILES)))


def builtin_names() -> tuple[str, ...]:
    """The names of the profiles that ship with monitorgen."""
    return tuple(sorted(path.stem for path in builtin_folder().glob("*.yaml")))


def load_profile(name: str, *, config: Sequence[Path] = (), sets: Sequence[str] = ()) -> Loaded:
    """Load a profile by name or path and lay overrides over it. Raises InputError."""
    document, folder, stem = _read_chain(name, None, ())
    for path in config:
        document = _apply_config(document, path)
    for text in sets:
        document = _apply_set(document, text)
    profile = _validate(document)
    if not profile.name and not PROFILE_NAME.fullmatch(stem):
        raise InputError(
            f"the file's name {stem!r} cannot be the profile's name",
            origin=Origin(document.file, 1, 1),
            hint="give it one of letters, digits, _ and -, at most 29 of them: name: my-profile",
        )
    return Loaded(profile=profile, document=document, name=profile.name or stem, folder=folder)


def _locate(name: str, beside: Path | None, origin: Origin | None) -> tuple[Path, str]:
    """The file of a profile and the name that messages show for it."""
    if re.fullmatch(r"[a-z0-9_-]+", name):
        path = builtin_folder() / f"{name}.yaml"
        if path.is_file():
            return path, f"profiles/{name}.yaml"
    path = Path(name) if beside is None else beside / name
    if path.is_file():
        return path, str(path)
    near = difflib.get_close_matches(name, builtin_names(), 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(builtin_names())}, or give a file"
    raise InputError(f"there is no profile {name!r}", origin=origin, hint=hint)


def _read_chain(name: str, beside: Path | None, seen: tuple[Path, ...], origin: Origin | None = None) -> Any:
    path, shown = _locate(name, beside, origin)
    real = path.resolve()
    if real in seen:
        chain = " -> ".join(p.stem for p in (*seen, real))
        raise InputError(
            f"extends runs in a circle: {chain}", origin=origin, hint="let one of them extend nothing"
        )
    document = read_document(path, name=shown)
    if not isinstance(document.data, dict):
        raise InputError(
            "a profile is a mapping of keys", origin=Origin(shown, 1, 1), hint="see `profile new`"
        )
    _check_shape(document)
    base = document.data.get("extends")
    if base is None:
        return document, path.parent, path.stem
    at = document.origin(("extends",))
    if not isinstance(base, str):
        raise InputError("extends names one profile", origin=at)
    parent, _, _ = _read_chain(base, path.parent, (*seen, real), at)
    # A name is of one profile, not of those that extend it.
    parent.data.pop("name", None)
    return merge(parent, document), path.parent, path.stem


def _check_shape(document: Document) -> None:
    """Unknown top-level keys are found in the file that holds them, before anything merges."""
    known = {field.alias or name for name, field in Profile.model_fields.items()}
    for key in document.data:
        if key not in known:
            raise InputError(
                f"unknown key {key!r}", origin=document.origin((key,)), hint=did_you_mean(key, known)
            )


def _apply_config(document: Document, path: Path) -> Document:
    """Lay an overrides file over the profile."""
    over = read_document(path)
    if over.data is None:
        return document
    if not isinstance(over.data, dict):
        raise InputError("an overrides file is a mapping of keys", origin=Origin(str(path), 1, 1))
    return _apply(document, over)


def _apply(document: Document, over: Document) -> Document:
    """Lay overrides over the profile; `metrics:` and bare numbers in `thresholds:` are understood."""
    known = {field.alias or name for name, field in Profile.model_fields.items()} - {"extends", "name"} | {
        "metrics"
    }
    for key in over.data:
        if key not in known:
            raise InputError(
                f"unknown key {key!r}", origin=over.origin((key,)), hint=did_you_mean(key, known)
            )
    metrics = over.data.pop("metrics", None)
    if metrics is not None:
        _apply_metrics(document, over, metrics)
    thresholds = over.data.get("thresholds")
    if isinstance(thresholds, dict):
        for key, value in thresholds.items():
            thresholds[key] = _threshold_override(document, key, value, over.origin(("thresholds", key)))
    return merge(document, over)


def _apply_metrics(document: Document, over: Document, metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise InputError("metrics maps names to families", origin=over.origin(("metrics",)))
    signals = document.data.get("signals") or {}
    for key, value in metrics.items():
        at = over.origin(("metrics", key))
        signal = METRIC_KEYS.get(key, str(key))
        if signal not in signals:
            if key in METRIC_KEYS:
                # The name is known, but this profile (baseline, say) has no such signal: nothing to override.
                continue
            known = {*METRIC_KEYS, *signals}
            raise InputError(f"unknown metric name {key!r}", origin=at, hint=did_you_mean(key, known))
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
        ):
            raise InputError(f"metrics.{key} is the name of a family, or a list of them", origin=at)
        spec = signals[signal]
        if isinstance(value, str) and value in _texts(spec.get("family")):
            continue  # It reads that name already, and the older ones beside it.
        if "ratio" in spec or "expr" in spec:
            raise InputError(
                f"the signal {signal} has no single family", origin=at, hint=f"set signals.{signal}"
            )
        spec["family"] = value
        for path in [p for p in document.origins if p[:3] == ("signals", signal, "family")]:
            del document.origins[path]
        document.origins["signals", signal, "family"] = at


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _threshold_override(document: Document, key: str, value: Any, at: Origin) -> Any:
    """A bare number takes the unit in which the profile writes the threshold: `kv_warn: 90` is 90%."""
    current = (document.data.get("thresholds") or {}).get(key)
    if current is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        new, old = parse_quantity(value), parse_quantity(current)
    except ValueError as error:
        raise InputError(str(error), origin=at) from error
    if new.unit or not old.unit:
        return value
    if old.unit == "ratio" and 0 < new.value <= 1:
        raise InputError(
            f"{key}: {new.text} can mean {new.text}% or {new.value * 100:g}%",
            origin=at,
            hint=f"write {new.text}% or {new.value * 100:g}%",
        )
    # Seconds are the base in which the field writes bare numbers; 0.6 for a 600ms threshold is 0.6s.
    return f"{new.text}s" if old.unit == "seconds" else f"{new.text}{old.suffix}"


def _apply_set(document: Document, text: str) -> Document:
    """Lay one `--set name=value` over the profile: a threshold's name, or a dotted path."""
    key, equals, value = text.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    at = Origin(file=f"--set {text}")
    if not equals or not all(path) or not value.strip():
        raise InputError(
            f"--set takes NAME=VALUE, not {text!r}", hint="for example --set ttft_p90_warn=400ms"
        )
    thresholds = document.data.get("thresholds") or {}
    if len(path) == 1 and path[0] not in Profile.model_fields:
        if path[0] not in thresholds:
            raise InputError(
                f"unknown threshold {path[0]!r}", origin=at, hint=did_you_mean(str(path[0]), thresholds)
            )
        path = ("thresholds", path[0])
    nested: Any = parse_document(value.encode(), f"--set {text}").data
    for part in reversed(path):
        nested = {part: nested}
    over = Document(data=nested, file=at.file)
    for end in range(1, len(path) + 1):
        over.origins[path[:end]] = at
    return _apply(document, over)


def _validate(document: Document) -> Profile:
    data = dict(document.data)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise explain(error, document) from error
