"""A short run of the fuzz target: hostile files by hand, and files of the corpus with a seeded mutation."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import CORPUS, check

JOB = b"version: 1\nname: demo\nmodel: {name: qvl-tiny}\nstages:\n  sft: {uses: sft, data: {format: spatial_scenes}}\n"
BOMB = b"a: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"b%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)
)
HOSTILE = {
    "empty": b"",
    "nothing but spaces": b" " * 10_000,
    "alias bomb": BOMB,
    "alias of itself": b"a: &a [*a]\n",
    "merge of itself": b"a: &a {<<: *a}\n",
    "deep list": b"[" * 5000,
    "deep map": b"{a: " * 5000,
    "deep indentation": b"".join(b" " * n + b"a:\n" for n in range(400)),
    "10 MB line": b"name: " + b"x" * 10_000_000,
    "largest line allowed": b"name: " + b"x" * 127_000,
    "many keys": b"".join(b"k%d: 1\n" % n for n in range(13_000)),
    "many doubled keys": b"k: 1\n" * 25_000,
    "many anchors": b"".join(b"k%d: &a%d 1\n" % (n, n) for n in range(7_000)),
    "nul": b"version: 1\x00\n",
    "lone surrogate": b"name: \xed\xa0\x80\n",
    "latin-1": b"name: caf\xe9\n",
    "utf-16": JOB.decode().encode("utf-16"),
    "tabs": JOB.replace(b"  ", b"\t"),
    "conflict": JOB + b"<<<<<<< HEAD\n",
    "python tag": b"!!python/object/apply:os.system [id]\n",
    "binary tag": b"name: !!binary aGVsbG8=\n",
    "set tag": b"name: !!set {a, b}\n",
    "tag directive": b"%TAG ! tag:example.org,2000:\n---\nname: !x y\n",
    "yaml 1.1": b"%YAML 1.1\n---\nname: on\n",
    "yaml 9": b"%YAML 9.9\n---\nname: on\n",
    "two documents": JOB + b"---\n" + JOB,
    "huge integer": b"version: " + b"9" * 5000,
    "huge float": b"version: 1e999999\n",
    "not a number": b"version: .nan\n",
    "long tag": b"name: !" + b"a" * 5000 + b" x\n",
    "question mark keys": b"? a\n: b\n? [c]\n: d\n",
    "empty key": b": 1\n",
    "null key": b"null: 1\n~: 2\n",
    "block scalar": b"name: |\n" + b"  line\n" * 5000,
    "escapes": b'name: "\\x00\\u0000\\U0010FFFF"\n',
    "control characters": b'name: "\x1b[31m"\n',
    "extends itself": b"extends: job.yaml\n",
    "extends a folder": b"extends: /\n",
    "extends nul": b'extends: "a\\0b"\n',
    "extends a long name": b"extends: " + b"a" * 5000 + b"\n",
    "env": b'version: 1\nname: d\nmodel: {name: "${env:NOT_THERE}${env:}${env:A B}"}\n',
    "path with nul": JOB + b'storage: {drive: "a\\0b"}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_diagnostics(name: str) -> None:
    assert not check(HOSTILE[name])


@pytest.mark.parametrize(
    "raw", [b"\xef\xbb\xbf" + JOB, JOB.replace(b"\n", b"\r\n"), JOB.rstrip(b"\n")]
)
def test_byte_order_marks_and_line_ends_do_no_harm(raw: bytes) -> None:
    assert check(raw)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=400))
def test_any_bytes(raw: bytes) -> None:
    check(raw)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.text(alphabet="abc:{}[]-,&*!?|>'\"#%@ \n\t<~1.e", max_size=200))
def test_any_text_of_yamls_own_characters(text: str) -> None:
    check(text.encode())


def mutated(count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    files = [path.read_bytes() for path in sorted(CORPUS.glob("*/*.yaml"))]
    pieces = [
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!",
        b"\n",
        b"\t",
        b"null",
        b"\xff",
        b"1e9",
    ]
    for _ in range(count):
        raw = bytearray(rng.choice(files) or b"a")
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(raw) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                raw[at:at] = rng.choice(pieces)
            elif kind == 1:
                del raw[at : at + rng.randint(1, 20)]
            elif kind == 2 and at < len(raw):
                raw[at] = rng.randrange(256)
            else:
                other = rng.choice(files)
                cut = rng.randrange(len(other) + 1)
                raw[at:at] = other[cut : cut + 40]
        yield bytes(raw)


def test_files_of_the_corpus_with_mutations() -> None:
    right = sum(check(raw) for raw in mutated(700, seed=1))
    assert 0 < right < 350
