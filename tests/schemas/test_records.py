"""JSON of ours is read only if it is what was written, key by key and byte by byte."""

from dataclasses import dataclass

import pytest

from schemas.records import Damaged, json_bytes, read_record, sealed_bytes
from schemas.shapes import ShapeError, shaped
from schemas.store import open_store


@dataclass(frozen=True)
class Part:
    name: str
    size: int | None = None


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    counts: dict[str, int]


VALUE = {"parts": [{"name": "a"}, {"name": "b", "size": 3}], "counts": {"x": 1}}


def test_a_value_of_the_shape_is_built():
    assert shaped(Whole, VALUE) == Whole((Part("a"), Part("b", 3)), {"x": 1})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "the whole is .*expected an object"),
        ({"parts": []}, "lacks the key counts"),
        (VALUE | {"more": 1}, "a key 'more' that is unknown"),
        (VALUE | {"parts": [{"name": 1}]}, r"parts\[0\].name is 1, expected text"),
        (VALUE | {"parts": [{"name": "a", "size": -1}]}, r"parts\[0\].size is -1, expected a whole number"),
        (VALUE | {"counts": {"x": True}}, "counts.x is True, expected a whole number"),
        (VALUE | {"counts": {"x\x1b": 1.5}}, r"counts.x\\x1b is 1.5"),
        (VALUE | {"parts": {}}, "parts is {}, expected a list"),
    ],
)
def test_a_value_of_another_shape_is_named_by_its_key(value, said):
    with pytest.raises(ShapeError, match=said):
        shaped(Whole, value)


def test_a_sealed_record_is_what_was_written_to_the_last_byte(tmp_path):
    store = open_store(tmp_path)
    whole = sealed_bytes(VALUE)
    store.put("x.json", whole)
    assert read_record(store, "x.json", Whole) == shaped(Whole, VALUE)
    for changed in (whole[:-1], whole + b"\n", whole.replace(b"3", b"4"), whole.replace(b'"a"', b'"A"')):
        store.put("x.json", changed)
        with pytest.raises(Damaged, match=r"x\.json: damaged.*run the same `engine precompute` again"):
            read_record(store, "x.json", Whole)
    store.put("x.json", json_bytes(VALUE))
    with pytest.raises(Damaged, match="has lost its own sha256"):
        read_record(store, "x.json", Whole)
    old = read_record(store, "x.json", Whole, must_be_sealed=lambda record: False)
    assert old.counts == {"x": 1}, "written before there were seals"
