"""Loading a profile: files, `extends`, overrides and validation, with a place in every error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.profile.legacy import METRIC_KEYS
from monitorgen.profile.model import Profile
from monitorgen.profile.quantity import Quantity, parse_quantity
from monitorgen.profile.source import Document, KeyPath, dotted, merge, parse_document, read_document

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
                f"unknown key {key!r}", origin=document.origin((key,)), hint=_did_you_mean(key, known)
            )


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names[:30])}"


def _apply_config(document: Document, path: Path) -> Document:
    """Lay an overrides file over the profile; `metrics:` and bare numbers in `thresholds:` are understood."""
    over = read_document(path)
    if over.data is None:
        return document
    if not isinstance(over.data, dict):
        raise InputError("an overrides file is a mapping of keys", origin=Origin(str(path), 1, 1))
    known = {field.alias or name for name, field in Profile.model_fields.items()} - {"extends", "name"} | {
        "metrics"
    }
    for key in over.data:
        if key not in known:
            raise InputError(
                f"unknown key {key!r}", origin=over.origin((key,)), hint=_did_you_mean(key, known)
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
            raise InputError(f"unknown metric name {key!r}", origin=at, hint=_did_you_mean(key, known))
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(v, str) for v in value)
        ):
            raise InputError(f"metrics.{key} is the name of a family, or a list of them", origin=at)
        spec = signals[signal]
        if "ratio" in spec or "expr" in spec:
            raise InputError(
                f"the signal {signal} has no single family", origin=at, hint=f"set signals.{signal}"
            )
        spec["family"] = value
        for path in [p for p in document.origins if p[:3] == ("signals", signal, "family")]:
            del document.origins[path]
        document.origins["signals", signal, "family"] = at


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
    key = key.strip()
    at = Origin(file=f"--set {text}")
    if not equals or not key:
        raise InputError(
            f"--set takes NAME=VALUE, not {text!r}", hint="for example --set ttft_p90_warn=400ms"
        )
    thresholds = document.data.get("thresholds") or {}
    path: KeyPath = tuple(key.split("."))
    if len(path) == 1:
        if key not in thresholds:
            raise InputError(f"unknown threshold {key!r}", origin=at, hint=_did_you_mean(key, thresholds))
        path = ("thresholds", key)
    parsed = parse_document(value.encode(), f"--set {text}").data
    if path[0] == "thresholds" and len(path) == 2:
        parsed = _threshold_override(document, str(path[1]), parsed, at)
    nested: Any = parsed
    for part in reversed(path):
        nested = {part: nested}
    over = Document(data=nested, file=at.file)
    for end in range(1, len(path) + 1):
        over.origins[path[:end]] = at
    return merge(document, over)


def _validate(document: Document) -> Profile:
    data = dict(document.data)
    try:
        return Profile.model_validate(data)
    except ValidationError as error:
        raise _explain(error, document) from error


def _explain(error: ValidationError, document: Document) -> InputError:
    """pydantic's first complaint as one sentence with a place."""
    details = sorted(error.errors(), key=lambda d: len(d["loc"]), reverse=True)
    first = details[0]
    path = tuple(part for part in first["loc"] if not _is_branch(part, document, first["loc"]))
    key = dotted(path)
    origin = document.origin(path)
    kind, hint = first["type"], ""
    if kind == "extra_forbidden":
        message = f"unknown key {key!r}"
        hint = _did_you_mean(str(path[-1]), _known_keys(path))
    elif kind == "missing":
        message = f"{dotted(path[:-1])} lacks the key {str(path[-1])!r}"
    elif kind == "value_error":
        message = f"{key}: {first['ctx']['error']}"
    elif kind == "literal_error":
        message = f"{key} is {first['input']!r}"
        hint = f"it is one of {first['ctx']['expected']}"
    else:
        message = f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, not {_short(first['input'])}"
    places = {d["loc"][:3] for d in details} - {first["loc"][:3]}
    if places:
        message += f" [and {len(places)} more place{'s' * (len(places) > 1)}]"
    return InputError(message, origin=origin, hint=hint)


def _is_branch(part: str | int, document: Document, loc: tuple[str | int, ...]) -> bool:
    """Whether a part of pydantic's location is the name of a union's branch or of a mapping's key."""
    return (
        isinstance(part, str)
        and (
            part in ("[key]", "str", "float", "int", "PanelSpec", "Count", "list[Count]")
            or part.startswith(("function-", "list[", "constrained"))
        )
        and not any(loc[: i + 1] in document.origins for i in range(len(loc)) if loc[i] == part)
    )


def _known_keys(path: KeyPath) -> list[str]:
    """The keys that are allowed where `path` stands."""
    model: Any = Profile
    for part in path[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
            model = _model_in(field.annotation) if field else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _model_in(annotation: Any) -> Any:
    """The model that an annotation holds: `dict[str, Signal]` -> Signal."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in reversed(getattr(annotation, "__args__", ())):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
