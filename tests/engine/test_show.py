"""One prompt with all that was made of it: nothing is missing, and nothing in it commands the terminal."""

import random
import re
import shutil

import pytest

from engine.story.gather import story_of
from engine.story.tokens import Tokens
from engine.story.word_edits import word_edits
from engine.story.written import written
from engine.views import views
from schemas.errors import UserError
from schemas.store import open_store
from schemas.styled import Part, folded, styled
from tests.conftest import command

ESCAPE = re.compile("\x1b[[][0-9;]*m")


@pytest.fixture(scope="module")
def tables(made_run):
    return {name: rows.to_table().to_pylist() for name, rows in views(open_store(made_run)).items()}


def test_all_of_a_prompt_is_shown(made_run, tables):
    pair = tables["pairs"][7]
    said = command("engine", "show", made_run, pair["pair_id"]).stdout
    texts = [row["text"] for row in tables["responses"] if row["prompt_id"] == pair["prompt_id"]]
    words = " ".join(said.split())
    assert len(texts) >= 2 and all(" ".join(text.split()) in words for text in texts)
    assert f"pair {pair['pair_id']}" in said and f"prompt {pair['prompt_id']}" in said
    (row,) = [row for row in tables["prompts"] if row["prompt_id"] == pair["prompt_id"]]
    assert f"{row['file']} line {row['line']}" in said and "given: 1" in said and "given: 0" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(("table", "column"), [("pairs", "pair_id"), ("prompts", "prompt_id")])
def test_the_first_letters_of_an_id_are_enough(made_run, tables, table, column):
    row = tables[table][3]
    story = story_of(open_store(made_run), row[column][:10], None)
    assert story.prompt["prompt_id"] == row["prompt_id"]
    assert table == "prompts" or [pair["pair_id"] for pair in story.pairs] == [row["pair_id"]]


def test_what_is_no_id_is_said(made_run):
    run = open_store(made_run)
    for wanted, said in (("abc", "at least 6 letters"), ("zzzzzz", "no pair, prompt or response")):
        with pytest.raises(UserError, match=said):
            story_of(run, wanted, None)
    with pytest.raises(UserError, match=r"no pair of .* has scores by judge"):
        story_of(run, None, "judge")
    assert "give an ID" in command("engine", "show", made_run, "abcdef", "--random", code=2).stderr


def test_the_worst_pair_is_the_one_that_a_scorer_is_most_against(made_run, tables):
    def against(pair):
        return dict(pair["rejected_scores"])["given"] - dict(pair["chosen_scores"])["given"]

    story = story_of(open_store(made_run), None, "given")
    worst = max(map(against, tables["pairs"]))
    want = min(pair["pair_id"] for pair in tables["pairs"] if against(pair) == worst)
    assert [pair["pair_id"] for pair in story.pairs] == [want]


def test_the_pieces_of_two_texts_are_the_texts():
    draw = random.Random(0)
    letters = ["a", "bc", " ", "\n", ", ", "é", "日"]
    for _ in range(300):
        texts = ["".join(draw.choices(letters, k=draw.randint(0, 30))) for _ in range(2)]
        common: list[str] = []
        for text, pieces in zip(texts, word_edits(*texts), strict=True):
            assert "".join(piece.text for piece in pieces) == text
            common.append("".join(piece.text for piece in pieces if not piece.is_own))
        assert common[0] == common[1]


def test_folded_lines_fit_and_lose_no_word():
    draw = random.Random(1)
    for _ in range(200):
        words = ["x" * draw.randint(1, 9) for _ in range(draw.randint(1, 60))]
        parts = [Part(" ".join(words[:9]) + " "), Part("\n".join(words[9:]), {"bold": True})]
        lines = styled(folded(parts, 40, 4), in_colour=False).split("\n")
        assert max(map(len, lines)) <= 40 and all(line.startswith("    ") for line in lines)
        assert " ".join(lines).split() == words


def test_no_text_brings_colours_or_commands_of_its_own(made_run):
    story = story_of(open_store(made_run), None, None)
    hostile = "\x1b[31mred\x1b]0;title\x07 \u202eabc <script>"
    for row in story.responses:
        row["text"] = hostile
    for row in (*story.pairs, story.prompt):
        row.update({"chosen": hostile, "rejected": f"{hostile}!", "file": hostile})
    coloured = styled(written(story, 100, None), in_colour=True)
    plain = ESCAPE.sub("", coloured)
    assert ESCAPE.search(coloured) and not re.search("[\x00-\x09\x0b-\x1f\u202e]", plain)
    assert "\\x1b[31mred\\x1b]0;title" in plain


def test_tokens_are_the_response_each_with_its_log_prob(made_run, tables):
    row = tables["logprobs"][5]
    texts = Tokens.of(open_store(made_run)).texts(row["response_ids"])
    (response,) = [one for one in tables["responses"] if one["response_id"] == row["response_id"]]
    assert len(texts) == len(row["token_logps"]) and "".join(texts).startswith(response["text"].strip()[:10])
    said = command("engine", "show", made_run, row["prompt_id"], "--tokens").stdout
    assert f"{texts[0].strip()}({row['token_logps'][0]:.4g})" in said


def test_a_run_without_pairs_yet_shows_what_is_there(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    for path in run.glob("pairs-*/*"):
        if path.name != "facts.json":
            path.unlink()
    said = command("engine", "show", run).stdout
    assert "no pair was chosen" in said and "2 responses" in said
