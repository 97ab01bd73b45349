import pytest

from qvl_run import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("14GiB", 14 * 1024**3),
        ("1.5 GiB", 1610612736),
        ("20GB", 20 * 10**9),
        ("512 B", 512),
        ("3KB", 3000),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("90min", 5400), ("1.5 d", 129600), ("30s", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize("text", ["14", "GiB", "14 gib", "-1GiB", "1e3GB", ""])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not in the form"):
        units.size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert units.show_duration(seconds) == text


def test_sizes_for_people() -> None:
    assert units.show_size(15_827_000_000) == "14.7 GiB"
    assert units.show_size(12) == "12 B"
