"""A hint is offered for a near spelling and for nothing else."""

import pytest

from schemas.errors import did_you_mean
from schemas.sections import SECTIONS

KEYS = ("beta", "learning_rate", "max_steps", "seed", "source", "temperature", "top_k")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("temprature", "temperature"),
        ("temperatrue", "temperature"),
        ("bta", "beta"),
        ("betta", "beta"),
        ("Beta", "beta"),
        ("lerning_rate", "learning_rate"),
        ("learning-rate", "learning_rate"),
        ("maxsteps", "max_steps"),
        ("sources", "source"),
        ("top_p", "top_k"),
    ],
)
def test_a_typing_mistake_is_understood(word, meant):
    assert did_you_mean(word, KEYS) == f"did you mean '{meant}'?"


@pytest.mark.parametrize(
    "word", ["test_source", "steps", "lr", "x", "rate", "share_of_tests", "resource_limit", ""]
)
def test_another_word_gets_the_list(word):
    assert did_you_mean(word, KEYS) == f"known are: {', '.join(KEYS)}"


def test_of_words_that_are_equally_near_the_shorter_one_is_meant():
    assert did_you_mean("dpoo", ("dpop", "dpo")) == "did you mean 'dpo'?"
    assert did_you_mean("a", ()) == "known are: none"


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_section_is_found_by_a_letter_too_many(section):
    assert did_you_mean(section + "s", SECTIONS) == f"did you mean '{section}'?"
