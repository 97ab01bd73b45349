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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (41.6, "42 s"),
        (185, "3 min 5 s"),
        (594, "9 min 54 s"),
        (596, "10 min"),
        (3036, "51 min"),
        (3569, "59 min"),
        (3571, "1 h 0 min"),
        (13_700, "3 h 50 min"),
    ],
)
def test_estimates_are_told_no_finer_than_they_are_meant(seconds: float, text: str) -> None:
    assert units.show_about(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.684, "0.68 s"), (2.0, "2 s"), (9.96, "10 s"), (12.44, "12.4 s"), (101, "1 min 41 s")],
)
def test_the_seconds_of_a_step(seconds: float, text: str) -> None:
    assert units.show_step(seconds) == text


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (15.1, 13.6, ("15.1 GiB", "13.6 GiB")),
        (13.64, 13.58, ("13.64 GiB", "13.58 GiB")),
        (13.584, 13.581, ("13.584 GiB", "13.581 GiB")),
        (2.0, 2.0, ("2.0 GiB", "2.0 GiB")),
    ],
)
def test_sizes_that_are_compared_are_told_apart(
    one: float, other: float, shown: tuple[str, str]
) -> None:
    assert units.show_unlike(round(one * 1024**3), round(other * 1024**3)) == shown


@pytest.mark.parametrize(
    ("vram", "asked", "words"),
    [
        (14.74, "16GB", "sold as 16 GB shows 14.7 GiB: write min_vram: 14GiB"),
        (14.74, "16GiB", "sold as 16 GB"),
        (22.5, "24GiB", "sold as 24 GB shows 22.5 GiB: write min_vram: 22GiB"),
        (11.6, "12GB", ""),
        (11.6, "12GiB", "sold as 12 GB shows 11.6 GiB: write min_vram: 11GiB"),
        (79.3, "80GiB", "sold as 80 GB"),
        (14.74, "24GiB", ""),
        (16.0, "16GiB", ""),
    ],
)
def test_a_card_is_sold_by_more_than_it_shows(vram: float, asked: str, words: str) -> None:
    found = units.sold_as(round(vram * 1024**3), asked=units.size(asked))
    assert words in found
    assert bool(found) == bool(words)
