"""`python -m qvl_run` is `qvl-run`."""

from qvl_run.cli import main

main()
