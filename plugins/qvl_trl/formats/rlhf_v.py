"""`rlhf_v`: preference pairs in the form of openbmb/RLHF-V-Dataset (Yu et al. 2023, arXiv:2312.00849).

Its column `text` is a JSON object with question, chosen and rejected; where they are columns of
their own, those are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qvl_run.contract import DataError, Example, Kind
from qvl_run.settings import DataSettings
from qvl_trl.formats import hub_rows
from qvl_trl.formats.records import Columns, to_example


class RlhfV:
    """Preference pairs, read when asked for."""

    name = "rlhf_v"
    kinds: frozenset[Kind] = frozenset({"preference"})
    location: Literal["hub"] = "hub"
    schema: Mapping[str, Any] = {
        "title": "rlhf_v",
        "description": "Takes no options.",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }

    def check(self, data: DataSettings, *, kind: Kind) -> Iterator[DataError]:  # noqa: ARG002
        """Nothing can be said without the network."""
        return iter(())

    def count(self, data: DataSettings) -> int | None:  # noqa: ARG002
        """Not known without the network."""
        return None

    def fingerprint(self, data: DataSettings, *, kind: Kind) -> str:  # noqa: ARG002
        """See `hub_rows.fingerprint`."""
        return hub_rows.fingerprint(data)

    def examples(self, data: DataSettings, *, kind: Kind, cache: Path) -> Sequence[Example]:
        """The pairs. Raises StageError; reading a bad row raises DataError."""
        records = hub_rows.load_records(data, cache=cache)
        return hub_rows.HubRows(
            records=records, name=str(data.path), convert=partial(_example, kind=kind)
        )


def _example(record: Mapping[str, Any], source: str, *, kind: Kind) -> Example:
    if "chosen" not in record:
        try:
            pair = json.loads(record["text"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "the row has neither a column chosen nor a JSON object in text", source=source
            ) from error
        record = {**{k: v for k, v in record.items() if k != "text"}, **pair}
    return to_example(record, kind=kind, columns=Columns(), source=source)


data_format = RlhfV()
