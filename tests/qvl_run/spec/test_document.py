import pytest

from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.document import Document, from_tree
from qvl_run.spec.yaml_text import MAX_DEPTH, parse_bytes


def parse(text: str, *, file: str) -> Document:
    return from_tree(parse_bytes(text.encode(), file=file), file=file)


def test_values_mean_what_yaml_1_2_says() -> None:
    text = "a: 1e-4\nb: on\nc: yes\nd: 0o17\ne: ~\nf: 'true'\ng: 0x1F\nh: .5\ni: 012\nj: 1_000\n"
    assert parse(text, file="f").data == {
        "a": 1e-4, "b": "on", "c": "yes", "d": 15, "e": None, "f": "true", "g": 31, "h": 0.5, "i": 12, "j": "1_000",
    }  # fmt: skip


def test_the_place_of_keys_and_values() -> None:
    document = parse("a:\n  bc: [10, 20]\n", file="f")
    key, value, element = (
        document.key_span(("a", "bc")),
        document.span(("a", "bc")),
        document.span(("a", "bc", 1)),
    )
    assert (key.line, key.column, key.length) == (2, 3, 2)
    assert (value.line, value.column) == (2, 7)
    assert (element.line, element.column, element.length) == (2, 12, 2)


def test_a_place_that_is_not_there_is_its_parents() -> None:
    document = parse("a: {b: 1}\n", file="f")
    assert document.span(("a", "x", "y")) == document.span(("a",))


def test_merge_keys_give_way_and_keep_their_place() -> None:
    document = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n", file="f")
    assert document.data["use"] == {"y": 3, "x": 1}
    assert document.key_span(("use", "x")).line == 1
    assert document.key_span(("use", "y")).line == 4


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1,\nb: 2\n", 1, "not valid YAML"),
        ("b: 1\n<<<<<<< HEAD\na: 1\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: !env HOME\n", 1, "tag"),
        ("- a\n- b\n", 1, "map"),
        ("", 1, "empty"),
        ("a: \x00\n", 1, "not valid YAML"),
        ("{a: 1}: 2\n", 1, "key must be plain text"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(JobError) as error:
        parse(text, file="f")
    diagnostic = error.value.diagnostics[0]
    assert words in diagnostic.message
    assert diagnostic.span is not None
    assert diagnostic.span.line == line


def test_a_bomb_of_aliases_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(JobError, match="aliases"):
        parse("\n".join(lines), file="f")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(JobError, match=r"nested|not valid YAML"):
        parse("a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), file="f")


def test_all_doubled_keys_are_told_at_once() -> None:
    with pytest.raises(JobError) as error:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}\n", file="f")
    assert [d.span.line for d in error.value.diagnostics if d.span] == [2, 3]
