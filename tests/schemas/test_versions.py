"""The versions that made a folder: every one of them, told apart from those here."""

import json

import pytest

from schemas import versions
from schemas.store import open_store


@pytest.fixture
def folder(tmp_path):
    return open_store(tmp_path / "logprobs-1")


def test_what_went_on_with_others_says_all_of_them(folder):
    versions.note(folder, {"torch": "2.12", "tokenizers": "1"}, goes_on=False)
    first = folder.read(versions.MADE_WITH)
    versions.note(folder, {"torch": "2.12", "tokenizers": "1"}, goes_on=True)
    assert folder.read(versions.MADE_WITH) == first
    versions.note(folder, {"torch": "2.13"}, goes_on=True)
    made = versions.read(folder)
    assert made == {"tokenizers": ["1"], "torch": ["2.12", "2.13"]}
    assert versions.others(made, {"torch": "2.13"}) == "torch 2.12 (here 2.13)"
    assert versions.others(made, {"torch": "3", "numpy": "2"}) == "torch 2.12 and 2.13 (here 3)"
    assert versions.others(made, {"tokenizers": "1"}) == ""
    assert versions.shown(made) == "tokenizers 1, torch 2.12 and 2.13"
    versions.note(folder, {"torch": "3"}, goes_on=False)  # nothing of the old is left
    assert versions.read(folder) == {"torch": ["3"]}


def test_a_folder_from_before_there_was_a_record_is_of_unknown_versions(folder):
    assert versions.read(folder) == {} and versions.others({}, {"torch": "3"}) == ""
    versions.note(folder, {"torch": "3"}, goes_on=True)
    assert versions.read(folder) == {"torch": ["3", "unknown"]}
    assert versions.others(versions.read(folder), {"torch": "3"}) == ""


def test_commands_that_begin_at_once_are_all_on_record(folder, monkeypatch):
    """The record of one that noted between our look and our writing stays."""
    read = versions._bytes_of
    looks = []

    def noted_meanwhile(store):
        seen = read(store)
        looks.append(seen)
        if len(looks) == 1:
            versions.note(store, {"torch": "2.12"}, goes_on=False, beside=True)
        return seen

    monkeypatch.setattr(versions, "_bytes_of", noted_meanwhile)
    versions.note(folder, {"torch": "2.13"}, goes_on=False, beside=True)
    assert versions.read(folder) == {"torch": ["2.12", "2.13"]}


def test_a_stage_without_libraries_has_no_record(folder):
    versions.note(folder, {}, goes_on=False)
    assert not folder.exists(versions.MADE_WITH)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"packages": 1, "sha256": "0"}', "\x00"])
def test_a_damaged_record_says_nothing(folder, text):
    folder.put(versions.MADE_WITH, text.encode())
    assert versions.read(folder) == {}


def test_a_record_that_somebody_changed_says_nothing(folder):
    versions.note(folder, {"torch": "2.12"}, goes_on=False)
    value = json.loads(folder.read(versions.MADE_WITH))
    value["packages"]["torch"] = ["2.13"]
    folder.put(versions.MADE_WITH, json.dumps(value).encode())
    assert versions.read(folder) == {}


def test_here_names_what_is_installed(tmp_path):
    found = versions.here(["torch", "no-such-package"])
    assert set(found) == {"torch"} and found["torch"].startswith("2.")
