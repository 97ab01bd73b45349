"""The files of a hub data set, in the hub's cache before `datasets` looks for them, which then asks for none.

What `datasets` does alone, building its Arrow files, is watched from outside.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvl_run.contract import StageError, StageStopped
from qvl_trl.downloads.cache import COMMIT, RemoteFile
from qvl_trl.downloads.explain import explained
from qvl_trl.downloads.fetch import hub_cache, make_fetch
from qvl_trl.downloads.watch import Watch, growing

MOST = 64
"""Files up to which they are fetched here, one after another; a data set of more is left to the library, which
fetches several at a time."""
_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<commit>[^/]+)/(?P<name>.+)")


def load(
    path: str,
    *,
    split: str,
    revision: str | None,
    cache: Path,
    watch: Watch,
) -> Any:
    """The split of the hub's data set `path`, or of a folder, as a `datasets.Dataset`, its Arrow files below `cache`.

    Raises StageError and StageStopped for what goes wrong with a download, and what `load_dataset` raises.
    """
    from datasets import load_dataset, load_dataset_builder

    if Path(path).exists():
        return load_dataset(path, split=split, cache_dir=str(cache))
    options = {"revision": revision, "cache_dir": str(cache)}
    with _told(path, revision):
        watch.begin(have=0, total=0)
        if watch.tries:
            _without_xet()
        builder = load_dataset_builder(path, **options)
        built = Path(builder.cache_dir)
        if not built.is_dir():
            _fetch(builder, watch)
        with growing(
            watch, [built.parent.parent, hub_cache() / f"datasets--{'--'.join(path.split('/'))}"]
        ):
            records = unbroken(lambda: load_dataset(path, split=split, **options), built)
        watch.over()
        return records


def unbroken(read: Callable[[], Any], built: Path) -> Any:
    """What `read` gives. Where the Arrow files in `built` were there before and cannot be read, they alone are removed
    and built again."""
    there = built.is_dir()
    try:
        return read()
    except Exception as error:
        if not there or not _unreadable(error):
            raise
    shutil.rmtree(built)
    return read()


def _unreadable(error: BaseException) -> bool:
    """Whether it is the error of a file cut short: Arrow's own, or of its description in JSON."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"ArrowException", "JSONDecodeError", "NonMatchingSplitsSizesError"}:
        return True
    # Arrow says "Expected to be able to read N bytes ... got M" as a plain OSError.
    cut = isinstance(error, OSError) and "Expected to" in str(error)
    return cut or type(error) is FileNotFoundError  # its subclasses tell of the hub


def _fetch(builder: Any, watch: Watch) -> None:
    """Bring the files that `builder` will read, of its every split, as it prepares them all."""
    urls = [str(url) for urls in (builder.config.data_files or {}).values() for url in urls]
    found = [match for url in urls if (match := _FILE.fullmatch(url))]
    sources = {(match["repo"], match["commit"]) for match in found}
    if len(found) != len(urls) or len(sources) != 1 or len(found) > MOST:
        return
    repo, commit = sources.pop()
    if not COMMIT.fullmatch(commit):
        return
    fetch = make_fetch(repo, kind="dataset", watch=watch)
    files = _listed(repo, commit, sorted({match["name"] for match in found}))
    fetch.suspect(commit, files)
    fetch.files(commit, files)


def _listed(repo: str, commit: str, names: Sequence[str]) -> list[RemoteFile]:
    from huggingface_hub import HfApi

    found = HfApi().get_paths_info(repo, list(names), revision=commit, repo_type="dataset")
    return [RemoteFile.listed(entry.path, entry) for entry in found]


def _without_xet() -> None:
    """For what the library fetches itself: Xet transfers may hang. Read by it at each use, not only when imported."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_XET = True


@contextmanager
def _told(path: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except (StageError, StageStopped):
        raise
    except Exception as error:
        told = explained(error, path, kind="data set", revision=revision, folder=hub_cache())
        if told is None:
            raise
        raise told from error
