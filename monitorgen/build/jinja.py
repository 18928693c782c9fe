"""The Jinja environment of expressions and prose: sandboxed, strict, with [[ ]]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.sandbox import SandboxedEnvironment

from monitorgen.brackets import bracketed
from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.profile import Loaded
from monitorgen.profile.explain import did_you_mean

MAX_RENDERED = 20_000


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment of expressions and prose. It never writes YAML."""
    environ = bracketed(SandboxedEnvironment, autoescape=False, keep_trailing_newline=True)
    environ.globals.clear()
    return environ


@lru_cache(maxsize=512)
def _compiled(text: str) -> Template:
    return environment().from_string(text)


# What a profile's template may consist of. No loops, filters, arithmetic: nothing that runs long or grows.
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Call, nodes.Const),
    *(nodes.If, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
)
# What expressions may use besides signals: functions of the scrape jobs, and the kept labels as a list.
FUNCTIONS = frozenset({"job_matcher", "absent_jobs"})
PROVIDED = FUNCTIONS | {"keep", "keep_target"}


@lru_cache(maxsize=512)
def _parsed(text: str) -> nodes.Template:
    return environment().parse(text)


def used_names(text: str, at: Origin) -> set[str]:
    """The names that a template uses. Raises InputError where it does not parse, or may not be."""
    try:
        found = tuple(_walk(_parsed(text)))
    except (TemplateError, RecursionError) as error:
        raise InputError(f"not a valid template: {error}", origin=at, hint="write [[ name ]]") from error
    for node in found:
        why = _refusal(node)
        if why:
            raise InputError(
                f"not allowed in a profile's template: {why}", origin=at, hint="write [[ name ]]"
            )
    return {node.name for node in found if isinstance(node, nodes.Name)}


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _refusal(node: nodes.Node) -> str:
    """Why a node may not be in a profile's template; empty where it may."""
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__.lower()} in line {node.lineno}"
    if isinstance(node, nodes.Getattr) and (
        node.attr.startswith("_") or not isinstance(node.node, nodes.Name)
    ):
        return f".{node.attr}"
    if isinstance(node, nodes.Call):
        name = node.node.name if isinstance(node.node, nodes.Name) else "this"
        texts = [arg for arg in node.args if isinstance(arg, nodes.Const) and isinstance(arg.value, str)]
        if name not in FUNCTIONS:
            return f"{name} is no function"
        if len(texts) != 1 or len(node.args) != 1 or node.kwargs or node.dyn_args or node.dyn_kwargs:
            return f"{name} takes one text: [[ {name}('vllm') ]]"
    return ""


def render(text: str, names: Mapping[str, object], at: Origin) -> str:
    """Render a profile's template. Raises InputError for undefined names and for what is not allowed."""
    if "[[" not in text and "[%" not in text and "[#" not in text:
        return text
    for name in sorted(used_names(text, at) - names.keys()):
        raise InputError(
            f"the template uses a name that is not defined: {name!r}",
            origin=at,
            hint=did_you_mean(name, names),
        )
    return render_own(text, names, at)


def render_own(text: str, names: Mapping[str, object], at: Origin) -> str:
    """Render one of our own templates, which may use all of Jinja."""
    try:
        result: str = _compiled(text).render(names)
    except InputError as error:
        raise InputError(error.message, origin=at, hint=error.hint) from error
    except (TemplateError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"the template cannot be rendered: {error}", origin=at) from error
    if len(result) > MAX_RENDERED:
        raise InputError(
            f"the template yields {len(result):,} characters; at most {MAX_RENDERED:,}", origin=at
        )
    return result


def job_names(loaded: Loaded) -> dict[str, tuple[str, ...]]:
    """The scrape jobs of each engine."""
    jobs: dict[str, tuple[str, ...]] = {}
    for name, scrape in loaded.profile.scrape.items():
        jobs[scrape.engine] = (*jobs.get(scrape.engine, ()), name)
    return jobs
