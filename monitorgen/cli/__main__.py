"""`python -m monitorgen.cli`."""

from monitorgen.cli import script

script()
