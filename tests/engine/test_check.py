"""[check] in batches: the scores that the function gives alone; what fails costs no other its score."""

import pyarrow as pa
import pytest

from engine.stage import Context
from engine.stages import check
from schemas.errors import UserError
from schemas.sections import Check
from schemas.tables import MESSAGES
from tests.engine.planned import planning

TEXTS = ["a", "bb", "ccc", "dd", "eeeee", "f", "gg"]
REFERENCES = ["a", None, "c", "dd", "e", "f", None]


def batch(texts=TEXTS) -> pa.Table:
    count = len(texts)
    return pa.table(
        {
            "prompt_id": [f"p{n}" for n in range(count)],
            "response_id": [f"r{n}" for n in range(count)],
            "text": texts,
            "messages": pa.array([[{"role": "user", "content": f"q{n}"}] for n in range(count)], MESSAGES),
            "file": ["f"] * count,
            "line": list(range(count)),
            "reference": pa.array(REFERENCES[:count], pa.string()),
        }
    )


@pytest.fixture
def own(tmp_path):
    """Writes a file of functions and gives the section for one of them."""
    written = 0

    def section(code: str, **more) -> Check:
        nonlocal written
        written += 1
        path = tmp_path / f"mine{written}.py"
        path.write_text(code)
        return Check(f"{path}:score", **more)

    return section


def made(config: Check):
    result = check.make(batch(), config, Context(seed=0))
    return result.tables["scores"]["score"].to_pylist(), result.tables["rejects"].to_pylist()


ALONE = "def score(messages, response):\n    return len(response) + int(messages[0]['content'][1:])\n"
LISTS = (
    "sizes = []\n"
    "def score(messages, responses):\n"
    "    sizes.append(len(responses))\n"
    "    found = [len(r) + int(m[0]['content'][1:]) for m, r in zip(messages, responses, strict=True)]\n"
    "    return {kind}\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("kind", ["found", "tuple(found)", "iter(found)", "__import__('numpy').array(found)"])
def test_a_batch_has_the_scores_of_its_responses_alone(own, size, kind):
    wanted, _ = made(own(ALONE))
    config = own(LISTS.format(kind=kind), batch_size=size)
    assert made(config) == (wanted, [])
    sizes = check.load(config.function).__globals__["sizes"]
    assert sum(sizes) == len(TEXTS) and max(sizes) == min(size, len(TEXTS))


@pytest.mark.parametrize("size", [2, 3, 100])
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("    assert 'ccc' not in responses, 'no c'\n", "AssertionError: no c"),
        ("    return ['x' if r == 'ccc' else len(r) for r in responses]\n", "TypeError: must be real number"),
    ],
)
def test_what_fails_in_a_batch_costs_no_other_its_score(own, size, line, said):
    code = f"def score(messages, responses):\n{line}    return [len(r) for r in responses]\n"
    found, rejects = made(own(code, batch_size=size))
    assert found == [1, 2, None, 2, 5, 1, 2]
    assert [(row["response_id"], row["reason"]) for row in rejects] == [("r2", "check_failed")]
    assert said in rejects[0]["detail"]


def test_a_function_may_have_no_opinion_of_some_of_a_batch(own):
    code = "def score(m, r):\n    return [None, float('nan'), 2, float('inf'), True, 1, 0][: len(r)]\n"
    assert made(own(code, batch_size=9)) == ([None, None, 2, None, 1, 1, 0], [])


@pytest.mark.parametrize("size", [0, 2, 5])
def test_a_parameter_called_reference_is_the_data_s_right_answer(own, size):
    one = (
        "def score(messages, response, reference):\n"
        "    return None if reference is None else response == reference\n"
    )
    lists = (
        "def score(messages, responses, *, reference=None):\n"
        "    return [None if b is None else a == b for a, b in zip(responses, reference, strict=True)]\n"
    )
    assert made(own(lists if size else one, batch_size=size)) == ([1, None, 0, 1, 0, 1, None], [])


def test_a_function_of_lists_without_batch_size_is_told(own):
    found, rejects = made(own("def score(messages, responses):\n    return [1.0 for _ in responses]\n"))
    assert found == [None] * len(TEXTS)
    assert "set check.batch_size for a function of lists" in rejects[0]["detail"]


def test_facts_say_only_what_is_set(own):
    plain = own(ALONE)
    sections = {"check": plain}
    assert set(check.facts(plain, planning(sections, "check"))) == {"function", "source"}
    batched = Check(plain.function, batch_size=4)
    assert check.facts(batched, planning(sections, "check"))["batch_size"] == 4
    asks = own("def score(messages, response, reference):\n    return 1\n")
    assert check.facts(asks, planning(sections, "check"))["reference"] is True
    with pytest.raises(UserError, match="batch_size = -1"):
        Check(plain.function, batch_size=-1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[1.0]", "a list of 3 scores, one a response, and it gave 1$"),
        ("[0.5] * 9", "and it gave 9$"),
        ("0.5", "and it gave 0.5$"),
        ("{r: 1.0 for r in responses}", "and it gave {"),
        ("'123'", "and it gave 123$"),
    ],
)
def test_scores_that_nobody_can_place_stop_the_run(own, given, said):
    """A mean of the list, or scores of some of it: asked one by one the function would seem to be right."""
    config = own(f"def score(messages, responses):\n    return {given}\n", batch_size=3)
    with pytest.raises(UserError, match=said):
        check.make(batch(), config, Context(seed=0))


def test_an_async_function_is_refused(own):
    config = own("async def score(messages, response):\n    return 1.0\n")
    with pytest.raises(UserError, match="without async"):
        check.facts(config, planning({"check": config}, "check"))
