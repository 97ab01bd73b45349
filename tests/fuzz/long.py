"""The long run of the fuzzer, guided by coverage: `make fuzz`, or `python -m tests.fuzz.long [RUNS]`.

Needs atheris. Stops at the first input that breaks a promise and leaves it in the current folder.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import atheris

MEMORY = 500 * 1024 * 1024

with atheris.instrument_imports(include=["qvl_run", "ruamel.yaml"]):
    from tests.fuzz.target import CORPUS, check


def one_input(raw: bytes) -> None:
    check(raw)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert used < MEMORY, f"{used} bytes of memory"


def main() -> None:
    runs = sys.argv[1] if len(sys.argv) > 1 else "200000"
    folder = Path(tempfile.mkdtemp(prefix="qvl-corpus-"))
    for path in CORPUS.glob("*/*.yaml"):
        (folder / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    options = [
        f"-runs={runs}",
        "-max_len=4096",
        "-timeout=20",
        "-rss_limit_mb=1000",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
