"""Rows of a data set that the `datasets` library reads: a hub id, or a local folder or file.

Rows are read when they are asked for, images stay encoded: a data set larger than memory is fine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from qvl_run.contract import Example, StageError
from qvl_run.settings import DataSettings
from qvl_trl.downloads.explain import is_full
from qvl_trl.downloads.watch import current

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class HubRows(Sequence[Example]):
    """The rows of `records`, a `datasets.Dataset`, each made by `convert(record, source)`."""

    records: Any
    name: str
    convert: Callable[[Record, str], Example]

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        return self.convert(self.records[row], f"{self.name}, row {row + 1}")


def load_records(data: DataSettings, *, cache: Path) -> Any:
    """The `datasets.Dataset` that `data` names, images not decoded: shuffled where `shuffle_seed` is set, then at most
    `max_samples` rows.

    Downloads to the hub's cache and builds below `cache`, watched by `downloads.watch.current()`. Raises StageStopped,
    and StageError: "config" for a data set or split that does not exist or may not be read, "disk" where there is
    no room, "download" where the hub cannot be reached.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    from qvl_trl.downloads import dataset

    path = str(data.path)
    split = data.split or "train"
    try:
        if (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file():
            loaded = load_from_disk(path)
            records = loaded[split] if isinstance(loaded, DatasetDict) else loaded
        elif Path(path).is_file():
            kind = {"jsonl": "json", "json": "json", "csv": "csv"}.get(
                Path(path).suffix[1:], "parquet"
            )
            records = load_dataset(kind, data_files=path, split=split, cache_dir=str(cache))
        else:
            records = dataset.load(
                path, split=split, revision=data.revision, cache=cache, watch=current()
            )
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise StageError(
            f"the data set {path} cannot be read: {error}", failure="config"
        ) from error
    except OSError as error:  # of the disk: the network's were told apart before
        raise StageError(
            f"the data set {path} cannot be read: {error}",
            failure="disk" if is_full(error) else "download",
        ) from error
    if data.shuffle_seed is not None:
        records = records.shuffle(seed=data.shuffle_seed)
    if data.max_samples is not None:
        records = records.select(range(min(data.max_samples, len(records))))
    return _keep_encoded(records)


def fingerprint(data: DataSettings) -> str:
    """Id, revision and split. Without a pinned revision the hub may serve other rows another day."""
    return f"{data.path}@{data.revision or 'main'}[{data.split or 'train'}]"


def _keep_encoded(records: Any) -> Any:
    from datasets import Image, List

    for name, feature in records.features.items():
        if isinstance(feature, Image):
            records = records.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            records = records.cast_column(name, List(Image(decode=False)))
    return records
