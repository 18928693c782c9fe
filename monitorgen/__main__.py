"""`python -m monitorgen`."""

from monitorgen.cli import main

main()
