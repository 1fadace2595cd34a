"""JSON of ours carries a digest; text from outside cannot command a terminal."""

import json

from schemas.printable import printable
from schemas.sealed import seal, unsealed


def test_what_is_sealed_opens_and_what_is_changed_does_not():
    value = {"shards": 3, "stages": [{"name": "ä", "rows": 1.5, "of": None}]}
    sealed = json.loads(json.dumps(seal(value)))
    assert unsealed(sealed) == value
    for changed in (sealed | {"shards": 2}, sealed | {"more": 1}, sealed | {"sha256": None}):
        assert unsealed(changed) is None
    assert unsealed(value) == value, "written before there was a digest"


def test_every_single_bit_of_a_sealed_file_counts():
    whole = json.dumps(seal({"shards": 3, "facts": {"weights": "0a1b", "above": {}}})).encode()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            value = json.loads(flipped)
        except ValueError:
            continue
        if isinstance(value, dict) and "sha256" in value:
            assert unsealed(value) is None or unsealed(value) == unsealed(json.loads(whole)), bytes(flipped)


def test_what_a_terminal_obeys_is_shown_by_its_number():
    assert printable("a\tb\nc é 漢 🙂") == "a\tb\nc é 漢 🙂"
    assert printable("\x1b]0;title\x07") == r"\x1b]0;title\x07"
    assert printable("x\x9b2J\r") == r"x\x9b2J\r"
    assert printable("exe\u202efdp.\u2066") == r"exe\u202efdp.\u2066"
    assert printable("\ud800") == r"\ud800"
