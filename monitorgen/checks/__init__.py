"""Static checks of a bundle: a check a file, each a function from what a `Context` knows to findings.

>>> findings = run(Context(bundle))
"""

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding, Severity
from monitorgen.checks.registry import Check, all_checks, check, run

__all__ = ["Check", "Context", "Finding", "Severity", "all_checks", "check", "run"]
