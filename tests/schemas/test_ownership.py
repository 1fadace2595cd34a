"""Whose a recipe is: the user's own, unless somebody else wrote it or can."""

import os
import shutil
from pathlib import Path

import pytest

from schemas.ownership import why_foreign
from tests.conftest import ROOT


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine" / "recipe.toml"
    path.parent.mkdir(mode=0o755)
    path.write_text("")
    path.chmod(0o644)
    return path


def test_a_file_in_a_folder_of_one_s_own_is_one_s_own(recipe):
    assert why_foreign(recipe) == ""


def test_what_ships_is_as_much_one_s_own_as_the_program(tmp_path):
    for path in (ROOT / "pipelines" / "recipes").glob("*.toml"):
        assert why_foreign(path) == ""


@pytest.mark.parametrize(
    ("place", "mode", "said"),
    [
        ("", 0o646, "every user of this machine may write to .*recipe.toml"),
        ("..", 0o757, "every user of this machine may write to .*mine"),
        ("../..", 0o757, "every user of this machine may write to"),
    ],
)
def test_what_everybody_may_write_is_not(recipe, place, mode, said):
    found = Path(os.path.normpath(recipe / place)) if place else recipe
    before = found.stat().st_mode
    found.chmod(mode)
    try:
        import re

        assert re.match(said, why_foreign(recipe))
    finally:
        found.chmod(before)


def test_a_sticky_folder_keeps_others_off(recipe):
    recipe.parent.chmod(0o1777)
    assert why_foreign(recipe) == ""


def test_another_user_s_file_is_theirs(recipe, monkeypatch):
    real = os.stat(recipe)
    if real.st_uid == 0:
        os.chown(recipe, 4242, 4242)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: real.st_uid + 1)
    assert "belongs to the user" in why_foreign(recipe)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_of_several_may_write_what_it_may(recipe):
    os.chown(recipe, 0, 4242)
    assert why_foreign(recipe) == ""
    recipe.chmod(0o664)
    assert "the group 4242 may write to" in why_foreign(recipe)


def test_a_pipe_of_the_shell_is_one_s_own():
    reading, writing = os.pipe()
    try:
        assert why_foreign(Path(f"/dev/fd/{reading}")) == ""
    finally:
        os.close(reading)
        os.close(writing)


def test_a_run_folder_is_passed_on_whole(recipe):
    (recipe.parent / "plan.json").write_text("{}")
    assert "in the run folder" in why_foreign(recipe)
    of_train = recipe.parent / "train-1" / "recipe.toml"
    of_train.parent.mkdir()
    shutil.copy(recipe, of_train)
    (of_train.parent / "facts.json").write_text("{}")
    assert "in the run folder" in why_foreign(of_train)
