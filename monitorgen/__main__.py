"""`python -m monitorgen`."""

from monitorgen.cli import script

script()
