"""The one Jinja environment: sandboxed, strict, with [[ ]] since {{ }} belongs to Prometheus and Grafana."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError, meta
from jinja2.sandbox import SandboxedEnvironment

from monitorgen.bundle import Origin
from monitorgen.errors import InputError
from monitorgen.profile import Loaded

MAX_RENDERED = 20_000


@lru_cache(maxsize=1)
def environment() -> SandboxedEnvironment:
    """The environment of expressions and prose. It never writes YAML."""
    environ = SandboxedEnvironment(
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environ.globals.clear()
    return environ


@lru_cache(maxsize=512)
def _compiled(text: str) -> Template:
    return environment().from_string(text)


def used_names(environ: SandboxedEnvironment, text: str, at: Origin) -> set[str]:
    """The names that a template uses. Raises InputError where it does not parse."""
    try:
        return meta.find_undeclared_variables(environ.parse(text))
    except TemplateError as error:
        raise InputError(f"not a valid template: {error}", origin=at) from error


def render(text: str, names: Mapping[str, object], at: Origin) -> str:
    """Render a template. Raises InputError for undefined names and for what the sandbox forbids."""
    if "[[" not in text and "[%" not in text:
        return text
    try:
        result: str = _compiled(text).render(names)
    except UndefinedError as error:
        known = ", ".join(sorted(names))
        raise InputError(
            f"the template uses a name that is not defined: {error}", origin=at, hint=known
        ) from error
    except InputError as error:
        raise InputError(error.message, origin=at, hint=error.hint) from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
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
