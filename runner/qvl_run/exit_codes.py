"""What the exit code of `qvl-run` says."""

DONE = 0
FAILED = 1
"""A stage failed for good."""
USAGE = 2
"""The command line, the job file or its data is wrong."""
MACHINE = 3
"""This machine cannot run the job."""
BROKEN = 4
"""Checkpoints exist, and none of them is whole."""
OWNED = 5
"""Another runner owns the run."""
STOPPED = 75
"""Stopped early; the same command goes on (EX_TEMPFAIL of sysexits.h)."""
