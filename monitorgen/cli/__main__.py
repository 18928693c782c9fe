"""`python -m monitorgen.cli`."""

from monitorgen.cli import main

main()
