import io

from qvl_run.run.show import Show


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_ends_nothing() -> None:
    Show(Gone()).warn("anything")


def test_a_terminal_without_the_character_shows_another() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Show(out).line("é")
    assert raw.getvalue() == b"?\n"
