"""What the tests on a GPU share."""

from pathlib import Path

import pytest

from tests.gpu.big import build


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the 2B's sizes with random weights."""
    return build(tmp_path_factory.mktemp("model"))
