"""The soak: `make soak`, or `python -m tests.soak.soak [--minutes 30] [--seed 1] [--job quickstart|tiny|count]`.

Rounds with the seeds `--seed`, the next, and so on, until the minutes are over; each must come to the weights of the
undisturbed run, bit for bit. Stops at the first that does not, leaves its folders and says how to repeat it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak.jobs import JOBS
from tests.soak.plan import Kind
from tests.soak.round import Different, Places, soak, undisturbed


def main() -> int:
    """Run rounds; 0 where all were equal."""
    options = _options()
    job = JOBS[options.job]
    places = Places(
        disk=Path(tempfile.mkdtemp(prefix="qvl-soak-", dir=options.disk)),
        drive=Path(tempfile.mkdtemp(prefix="qvl-soak-", dir=options.drive)),
    )
    began = time.monotonic()
    print(f"{job.name}, undisturbed first", flush=True)
    reference = undisturbed(job, places)
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    total, rounds = Counter[Kind](), 0
    for seed in itertools.count(options.seed):
        if rounds == options.rounds or time.monotonic() - began > options.minutes * 60:
            break
        try:
            done = soak(job, places, seed, lambda: reference)
        except Different as error:
            print(error, flush=True)
            return 1
        print(done, flush=True)
        total += done.survived
        rounds += 1
    print(f"\n{rounds} rounds, all equal; {total.total()} faults survived in {_minutes(began)}:")
    for kind, count in total.most_common():
        print(f"  {count:5} {kind}")
    for folder in (places.disk, places.drive):
        shutil.rmtree(folder)
    return 0


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.0f} minutes"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no round after these")
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--job", choices=JOBS, default="quickstart")
    parser.add_argument("--disk", type=Path, help="folder for what the machine keeps")
    shm = Path("/dev/shm")
    parser.add_argument(
        "--drive",
        type=Path,
        default=shm if shm.is_dir() else None,
        help="folder for what outlives it, on another file system",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
