"""A word's probability is that of all ways to say it and nothing longer: against a walk over all logits."""

import numpy as np
import pytest
import torch

from engine.instructions import Question
from engine.marks import Marks, spell
from engine.text import Text
from schemas.errors import UserError
from tests.conftest import SHARED

ASKED = [{"role": "user", "content": "how good is it?"}]
SCALES = [range(1, 6), range(0, 11), range(1, 101)]
TEMPLATE = "{% for message in messages %}{{ message.content + '\n' }}{% endfor %}"


@pytest.fixture(scope="module", params=["digits", "numbers"])
def model(request, model_path, tmp_path_factory):
    """A random model whose tokenizer splits 10 into digits, and one that has tokens for 10, 20 and 100."""
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    if request.param == "digits":
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
        return Text(model_path, TEMPLATE), model.eval()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["10 20 100 the rating: 10\n10 Rating: 20"] * 8, trainer)
    path = tmp_path_factory.mktemp("numbers")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(path)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Text(path, TEMPLATE), AutoModelForCausalLM.from_config(config).eval()


def next_token(model, ids) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1).numpy()


def walked(model, prompt, marks: Marks) -> np.ndarray:
    """Every token after every beginning of a spelling: an answer is the longest word that it begins with."""
    masses = np.zeros(marks.words + 1)  # the last one is for what begins with no word

    def walk(said, probability, word):
        for token, p in enumerate(next_token(model, [*prompt, *said])):
            longer = (*said, token)
            here = marks.places.get(longer, word)
            if longer in marks.branchings:
                walk(longer, probability * p, here)
            else:
                masses[here] += probability * p

    walk((), 1.0, -1)
    assert masses.sum() == pytest.approx(1)
    return masses[:-1]


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("begun", ["", "Rating: ", "Rating:", "I give it "])
def test_masses_are_those_of_a_walk_over_all_logits(model, scale, begun):
    text, network = model
    question = Question(ASKED, begun)
    words = list(map(str, scale))
    marks = spell(text, question, words)
    (opening,) = text.openings([ASKED], [begun])
    prompt = opening[: len(opening) - marks.dropped]
    logps = []
    for said, tokens in marks.branchings.items():
        logps.append(np.log(next_token(network, [*prompt, *said])[tokens]))
    np.testing.assert_allclose(marks.masses(logps), walked(network, prompt, marks), atol=1e-9)
    assert len(set(marks.places.values())) == len(words)
    # What is read says the word, and the tokenizer's own way to go on is among the ways.
    in_place = text.openings([ASKED] * len(words), [begun + word for word in words])
    for place, ids in enumerate(in_place):
        spellings = [spelling for spelling, where in marks.places.items() if where == place]
        for spelling in spellings:
            said = text.tokenizer.decode([*prompt, *spelling])
            assert said.endswith(words[place]) and said[: -len(words[place])].strip().endswith(begun.strip())
        if begun:
            assert tuple(ids[len(prompt) :]) in spellings and ids[: len(prompt)] == prompt


def test_single_tokens_count_as_before(model):
    """Without a begun answer: every token that alone says the digit, after a space and a line's end too."""
    text, _ = model
    marks = spell(text, Question(ASKED), list("12345"))
    for place, word in enumerate("12345"):
        alone = {tuple(ids) for ids in text.spellings(word) if len(ids) == 1}
        assert {spelling for spelling, where in marks.places.items() if where == place} == alone
    assert list(marks.branchings) == [()]


def test_a_longer_mark_is_taken_from_the_shorter_one():
    marks = Marks(3, {(1,): 0, (1, 0): 1, (1, 0, 0): 2, (9,): 0})
    logps = [np.log([0.5, 0.25]), np.log([0.4]), np.log([0.5])]
    assert marks.masses(logps) == pytest.approx([0.25 + 0.5 * 0.6, 0.5 * 0.4 * 0.5, 0.5 * 0.4 * 0.5])
    assert np.isnan(marks.masses([[np.nan, 0.0], [0.0], [0.0]])).any()


def test_words_that_look_alike_are_refused(model):
    text, _ = model
    with pytest.raises(UserError, match="writes the answers '5' and '5' with the same tokens"):
        spell(text, Question(ASKED), ["5", "4", "5"])


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/models")
def test_marks_are_found_where_a_tokenizer_puts_a_space_in_front_of_every_text():
    text = Text(SHARED / "models" / "stories260K", "x")
    marks = spell(text, Question(ASKED), ["5", "10"])
    five = text.tokenizer("Rating:\n5", add_special_tokens=False).input_ids[-1]
    assert marks.places[five,] == 0
    ten = text.tokenizer("Rating:\n10", add_special_tokens=False).input_ids[-2:]
    assert marks.places[tuple(ten)] == 1
