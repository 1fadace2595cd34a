"""A judge behind a server gives the marks of the same model in process, and loses no row whatever happens.

The server has the sandbox's model behind it, run by transformers, or follows a script.
"""

import json
import time

import pyarrow as pa
import pytest

from engine.endpoint.asker import EndpointAsker
from engine.endpoint.reading import last_place, masses_at, places
from engine.endpoint.replies import GarbageError, Position, read_reply
from engine.endpoint.spec import endpoint_of
from engine.instructions import Question
from engine.stages import judge, rewrite
from pipelines.sandbox import world
from schemas.errors import UserError
from schemas.sections import Judge, Model, Rewrite
from schemas.tables import MESSAGES
from tests.conftest import ROOT
from tests.engine.planned import context, planning
from tests.engine.test_hf import open_hf
from tests.engine.test_rewrite import batch as drafts
from tests.serving import Answered, ChatModel, completion, serving

SANDBOX = ROOT / "pipelines" / "sandbox" / "model"


@pytest.fixture(scope="module")
def undecided(tmp_path_factory):
    """The sandbox's model, to which the marks 1 to 5, A and B are all likely, by their rows in its head."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("undecided")
    tokenizer = AutoTokenizer.from_pretrained(SANDBOX)
    model = AutoModelForCausalLM.from_pretrained(SANDBOX, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    head = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        head = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.lm_head.weight = head
    question = [{"role": "user", "content": "Which one is better, Response A or Response B?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    torch.manual_seed(0)
    with torch.no_grad():
        row = model(torch.tensor([ids])).logits[0, -1].argmax()
        common = head[row].clone()
        for number, word in enumerate(["A", "B", "1", "2", "3", "4", "5"]):
            for spelled in (word, " " + word):
                token = tokenizer(spelled, add_special_tokens=False).input_ids[-1]
                head[token] = common * (1 + number / 40) + 0.05 * torch.randn_like(common)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def responses(problems: int = 3) -> pa.Table:
    """Two answers to each of some word problems, a right and a wrong one."""
    import random

    draw = random.Random(1)
    rows = []
    for number in range(problems):
        problem = world.problem(draw)
        for manner in (1, 3):
            rows.append((number, manner, str(problem), world.write(problem, problem.steps(), manner)))
    return pa.table(
        {
            "prompt_id": [f"p{row[0]}" for row in rows],
            "response_id": [f"p{row[0]}r{row[1]}" for row in rows],
            "text": [row[3] for row in rows],
            "messages": pa.array([[{"role": "user", "content": row[2]}] for row in rows], MESSAGES),
            "file": ["f"] * len(rows),
            "line": list(range(len(rows))),
            "reference": pa.array([None] * len(rows), pa.string()),
        }
    )


def asked(base_url: str, table: pa.Table | None = None, **keys) -> judge.Made:
    """What the judge behind a server makes; no model is opened."""
    config = Judge(base_url=base_url, model="there", timeout=keys.pop("timeout", 20.0), **keys)
    return judge.make(responses() if table is None else table, config, context(Model(name=str(SANDBOX))))


def check_equal(here: list[dict], there: list[dict], tolerance: float = 1e-4) -> None:
    """Two lists of scores say the same."""
    assert len(here) == len(there) > 0
    for one, other in zip(here, there, strict=True):
        for name in ("prompt_id", "response_id", "scorer", "comparison_id", "agreed", "answer"):
            assert one[name] == other[name], name
        assert one["mass"] == pytest.approx(other["mass"], abs=1e-3)
        assert (one["score"] is None) == (other["score"] is None)
        if one["score"] is not None:
            assert one["score"] == pytest.approx(other["score"], abs=tolerance)
            assert one["distribution"] == pytest.approx(other["distribution"], abs=tolerance)


@pytest.mark.parametrize("suffix", ["", "_bare"])
def test_the_marks_are_those_of_the_model_in_process(undecided, suffix):
    keys = {
        "kinds": ("rating", "pairwise"),
        "rating_prompt": f"judge_rating{suffix}",
        "pairwise_prompt": f"judge_pairwise{suffix}",
    }
    model = open_hf(undecided)
    here = judge.make(responses(), Judge(**keys), context(Model(name=str(undecided)), model=model))
    with serving(ChatModel(undecided)) as server:
        there = asked(server.base_url, **keys)
    check_equal(here.tables["scores"].to_pylist(), there.tables["scores"].to_pylist())
    scored = [row["scorer"] for row in there.tables["scores"].to_pylist() if row["score"] is not None]
    assert {"rating", "pairwise"} == set(scored), "the test compares nulls"
    assert not len(there.tables["rejects"]) and here.counts == there.counts


def test_a_server_that_cannot_go_on_is_asked_freely(undecided):
    """Without a begun answer nothing differs: the marks are read where the answer begins."""
    keys = {"kinds": ("rating", "pairwise"), "rating_prompt": "judge_rating_bare"}
    keys["pairwise_prompt"] = "judge_pairwise_bare"
    model = open_hf(undecided)
    here = judge.make(responses(), Judge(**keys), context(Model(name=str(undecided)), model=model))
    with serving(ChatModel(undecided, continues=False)) as server:
        there = asked(server.base_url, **keys)
        going_on = [chat for chat in server.chats if "continue_final_message" in chat.body]
        assert len(going_on) == 1, "only to find out whether it can"
    check_equal(here.tables["scores"].to_pylist(), there.tables["scores"].to_pylist())


def test_marks_of_two_tokens_are_followed_by_going_on(undecided):
    """The sandbox's tokenizer writes 10 as 1 and 0: what "1" has is not all the mark 1's."""
    keys = {"rating_prompt": "judge_rating_bare", "low": 1, "high": 10}
    model = open_hf(undecided)
    here = judge.make(responses(), Judge(**keys), context(Model(name=str(undecided)), model=model))
    with serving(ChatModel(undecided)) as server:
        there = asked(server.base_url, **keys)
    check_equal(here.tables["scores"].to_pylist(), there.tables["scores"].to_pylist(), tolerance=5e-3)
    with serving(ChatModel(undecided, continues=False)) as server:
        apart = asked(server.base_url, **keys)
    rejects = apart.tables["rejects"].to_pylist()
    scores = apart.tables["scores"].to_pylist()
    assert len(scores) == 6 and all(row["score"] is None for row in scores)
    assert {reject["reason"] for reject in rejects} == {"marks_not_told_apart"} and len(rejects) == 6


@pytest.mark.parametrize("file", ["judge_rating", "judge_rating_bare"])
def test_thoughts_are_kept_and_the_mark_is_read_below_them(undecided, file):
    keys = {"think": 6, "rating_prompt": file}
    model = open_hf(undecided)
    here = judge.make(responses(), Judge(**keys), context(Model(name=str(undecided)), model=model))
    with serving(ChatModel(undecided)) as server:
        there = asked(server.base_url, **keys)
    check_equal(here.tables["scores"].to_pylist(), there.tables["scores"].to_pylist())
    assert all(row["answer"] for row in there.tables["scores"].to_pylist())
    assert there.counts["scored"], "the test compares nulls"


@pytest.mark.parametrize(
    ("said", "score"),
    [
        (["It", " is", " fine", ".\n", "Rating", ":", " ", "4"], 4.0),
        (["Rating", ":", " 2", "? No", ".\n", "**", "Rating", ":** ", "5"], 5.0),
        (["I", " cannot", " say"], None),
    ],
)
def test_thoughts_in_a_free_answer(said, score):
    """Where the server cannot go on the model ends its thoughts itself, and its reasoning may stand apart."""
    tokens = [(token, {token: -0.001}) for token in said]

    def answer(one, number):
        return Answered(body=completion("".join(said), tokens, reasoning_content="Let me see."))

    with serving(answer) as server:
        made = asked(server.base_url, think=50)
        longest = max(chat.body["max_tokens"] for chat in server.chats)
    for row in made.tables["scores"].to_pylist():
        assert row["score"] == (score and pytest.approx(score, abs=0.01))
        assert "Let me see." in row["answer"] and "".join(said) in row["answer"]
    assert longest > 50


# Where the mark stands in an answer, by hand.


def positions(*texts: str) -> list[Position]:
    return [Position(text, ((text, 0.9),)) for text in texts]


@pytest.mark.parametrize(
    ("texts", "begun", "place"),
    [
        (["4"], "Rating: ", 0),
        (["Rating", ":", " ", "4"], "Rating: ", 3),
        (["**", "rating", ":", "**", " 4", "."], "Rating: ", 4),
        (["\n", "4"], "", 1),
        (["I", " think"], "Rating: ", 0),
        (["Rate", " it", "5"], "Rating: ", 0),
        (["Response", " A"], "Response ", 1),
    ],
)
def test_the_place_of_a_mark(texts, begun, place):
    assert places(positions(*texts), begun, is_begun=False)[-1] == place


@pytest.mark.parametrize(
    ("texts", "begun", "place"),
    [
        (["It", " is", " 3", ".", "\n", "Rating", ":", " 4"], "Rating: ", 7),
        (["Rating", ": ", "2", "? No", ".\n", "**Rating", ":** ", "4"], "Rating: ", 7),
        (["It", " is", " fine", ".\n", "4"], "", 4),
        ([], "Rating: ", None),
    ],
)
def test_the_place_of_a_mark_below_thoughts(texts, begun, place):
    assert last_place(positions(*texts), begun) == place


def test_a_mark_that_begins_another_is_not_taken_for_it():
    ten = [str(mark) for mark in range(1, 11)]
    position = Position("1", (("1", 0.5), (" 10", 0.2), ("4", 0.1), ("x", 0.1)))
    masses = masses_at(position, ten, frozenset())
    assert masses.by_word == {"10": 0.2, "4": 0.1} and [one.spelled for one in masses.branches] == ["1"]
    assert masses_at(position, ten, frozenset({"10"})).by_word == {"1": 0.5, "10": 0.2, "4": 0.1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'"text"',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
        json.dumps(completion("4", [("4", {"4": float("nan")})])).encode(),
        json.dumps(completion("4", [("4", {"4": 3.0})])).encode(),
        json.dumps(completion("4", [("4", {"4": -0.1, "5": -0.1})])).encode(),
    ],
)
def test_a_reply_without_sense_is_an_error(body):
    with pytest.raises(GarbageError):
        read_reply(body, "")


# What a server may do. The first request is the look at its log-probs, the next ones at what it can do.


def good(text: str = "4") -> Answered:
    return Answered(body=completion(text, [(text, {text: -0.05, "5": -4.0, "A": -5.0})]))


@pytest.mark.parametrize(
    "fault",
    [
        Answered(429, {"error": {"message": "slow down"}}, {"retry-after": "0.3"}),
        Answered(500, {"error": {"message": "oops"}}),
        Answered(503, b"busy"),
        Answered(200, b"<html>busy</html>", {"content-type": "text/html"}),
        Answered(200, b"{broken"),
        Answered(200, {"choices": []}),
        Answered(200, completion(None)),
    ],
)
def test_a_fault_that_goes_away_leaves_no_trace(fault):
    with serving(lambda one, number: fault if number % 2 == 0 else good()) as server:
        made = asked(server.base_url, rating_prompt="judge_rating_bare", concurrency=1)
    assert made.counts["unscored"] == 0 and not len(made.tables["rejects"])
    assert all(row["score"] == pytest.approx(4.0, abs=0.05) for row in made.tables["scores"].to_pylist())


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Answered(429, {"error": {"message": "slow down"}}), ["429", "slow down", "concurrency"]),
        (Answered(500, {"error": {"message": "oops"}}), ["500", "oops", "same command"]),
        (Answered(503, b"busy"), ["503", "busy", "same command"]),
    ],
)
def test_a_fault_that_stays_stops_the_run_in_bounded_time(fault, says):
    with serving(lambda one, number: fault if number > 3 else good()) as server:
        began = time.monotonic()
        with pytest.raises(UserError) as error:
            asked(server.base_url, retries=1)
        assert time.monotonic() - began < 20
        for words in [*says, server.base_url, "there"]:
            assert words in str(error.value)


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "api_key_env"), (403, "api_key_env"), (404, "qwen, llama"), (402, "base_url")],
)
def test_what_does_not_get_better_stops_at_once(status, says):
    def answer(one, number):
        if one.path.endswith("/models"):
            models = [{"id": name, "object": "model"} for name in ("qwen", "llama")]
            return Answered(body={"object": "list", "data": models})
        return Answered(status, {"error": {"message": "no"}})

    with serving(answer) as server:
        with pytest.raises(UserError, match=says):
            asked(server.base_url, retries=9)
        assert len(server.chats) == 1


def test_a_server_that_hangs_is_left_after_its_time():
    with serving(lambda one, number: server.stopping.wait(60) or good()) as server:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"did not answer within 0\.5 seconds"):
            asked(server.base_url, retries=1, timeout=0.5)
        assert time.monotonic() - began < 10


def test_nobody_there():
    with serving(lambda one, number: good()) as server:
        gone = server.base_url
    with pytest.raises(UserError, match="cannot be reached"):
        asked(gone, retries=1)


@pytest.mark.parametrize("tokens", [None, [("4", {})], []])
def test_a_server_without_log_probs_is_refused_at_its_first_reply(tokens):
    with serving(lambda one, number: Answered(body=completion("4", tokens))) as server:
        with pytest.raises(UserError, match="log-probs"):
            asked(server.base_url)
        assert len(server.chats) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answered(400, {"error": {"message": "maximum context length is 64"}}), "refused_by_server"),
        (Answered(200, {"choices": []}), "no_sense_in_reply"),
        (Answered(200, completion("", [])), "no_sense_in_reply"),
    ],
)
def test_a_row_that_the_server_refuses_is_a_reject_and_the_others_are_scored(fault, reason):
    table = responses()
    first = table["text"][0].as_py()

    def answer(one, number):
        return fault if first in str(one.body["messages"]) else good()

    with serving(answer) as server:
        made = asked(server.base_url, table, concurrency=2)
    (reject,) = made.tables["rejects"].to_pylist()
    scores = made.tables["scores"].to_pylist()
    assert reject["reason"] == reason and reject["line"] == 0 and reject["detail"]
    assert len(scores) == len(table) and [row["score"] is None for row in scores].count(True) == 1


def test_answers_keep_the_order_of_their_questions_and_few_are_under_way():
    import threading

    lock, under_way, most = threading.Lock(), [0], [0]

    def answer(one, number):
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        question = one.body["messages"][0]["content"]
        time.sleep(0.02 if question.endswith("1") else 0.08)
        with lock:
            under_way[0] -= 1
        return good(question[-1]) if question[-1].isdigit() else good()

    questions = [Question([{"role": "user", "content": f"question {mark}"}]) for mark in "1234512345"]
    with serving(answer) as server:
        config = Judge(base_url=server.base_url, model="there", concurrency=3)
        answers = EndpointAsker(endpoint_of(config), 0.01).ask(questions, list("12345"))
    said = [answer.probabilities.index(max(answer.probabilities)) + 1 for answer in answers]
    assert said == [1, 2, 3, 4, 5] * 2 and 1 < most[0] <= 3


# The rewriter.


def rewritten(base_url: str, table: pa.Table, **keys) -> rewrite.Made:
    config = Rewrite(base_url=base_url, model="there", **keys)
    return rewrite.make(table, config, context(Model(name=str(SANDBOX))))


ROWS = [
    {
        "prompt_id": f"p{number}",
        "chosen_response_id": f"c{number}",
        "rejected_response_id": f"r{number}",
        "chosen": "the sum of both is nine",
        "rejected": f"First we add {number}: it is ten.",
    }
    for number in range(5)
]


def test_a_rewriter_writes_by_the_recipes_sampling_and_falls_back_as_in_process():
    def answer(one, number):
        question = one.body["messages"][-1]["content"]
        draft = next(row for row in ROWS if row["rejected"] in question)
        number = int(draft["prompt_id"][1:])
        if number == 1:
            return Answered(400, {"error": {"message": "too long"}})
        text = f" First we add {number}: it is nine. "
        return Answered(
            body=completion("" if number == 2 else text, finish="length" if number == 3 else "stop")
        )

    with serving(answer) as server:
        keys = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "max_tokens": 33, "concurrency": 2}
        made = rewritten(server.base_url, drafts(ROWS), **keys)
        bodies = [chat.body for chat in server.chats]
    found = {row["prompt_id"]: row for row in made.tables["responses"].to_pylist()}
    fallbacks = {name: row["fallback"] for name, row in found.items()}
    assert fallbacks == {"p0": None, "p1": "refused_by_server", "p2": "empty", "p3": "unfinished", "p4": None}
    assert found["p0"]["text"] == "First we add 0: it is nine." and found["p0"]["response_ids"] is None
    assert [row["reason"] for row in made.tables["rejects"].to_pylist()] == ["refused_by_server"]
    assert made.tables["responses"]["prompt_id"].to_pylist() == ["p0", "p2", "p3", "p4", "p1"]
    for body in bodies:
        assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.5, 0.9, 7, 33)
        assert "min_p" not in body and "n" not in body and body["model"] == "there"
    assert len({body["seed"] for body in bodies}) == len(ROWS)
    assert all(0 <= body["seed"] < 2**31 for body in bodies)


# What the folders depend on, and where no key may stand.


def test_the_server_and_the_name_are_facts_and_how_it_is_asked_is_not():
    def facts(**keys):
        config = Judge(base_url="http://host/v1", model="there", **keys)
        return judge.facts(config, planning({"judge": config}, "judge"))

    usual = facts()
    assert usual["model"]["endpoint"] == "http://host/v1" and usual["model"]["name"] == "there"
    for keys in ({"concurrency": 3}, {"retries": 0}, {"timeout": 1.0}, {"api_key_env": "OTHER"}):
        assert facts(**keys) == usual, keys
    assert facts(min_mass=0.5) != usual
