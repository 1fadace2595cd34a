"""Rows that are taken by the next sample when one ends give what whole batches give: another code path, with
transformers' own cache and attention."""

import shutil
import threading

import numpy as np
import pytest
import torch

from engine.models.hf import HF
from engine.models.side_by_side import Asked, by_length
from engine.progress import StageProgress
from schemas.errors import UserError
from schemas.forward.decoding import token_bytes
from schemas.forward.linears import packed_linears
from schemas.forward.rows import Rows
from schemas.sections import Sampling
from tests.engine.test_hf import open_hf

STOPS = tuple(range(40, 80))
PACKED = ("llama", "qwen3", "gemma2", "gpt2", "deepseek_v3", "gemma4", "mixtral")
MORE = ("llama_tied", "qwen2", "phi3", "qwen3_moe", "hunyuan_moe", "minimax_m2", "ernie_moe")
SHAPED = {"repetition_penalty": 1.4, "min_tokens": 3, "logit_bias": {"5": 1.5}, "stop_token_ids": STOPS}


def open_family(folder, model_path, own) -> HF:
    """A family's model, with the tokenizer of the test model, in a folder of its own."""
    shutil.copytree(model_path, own)
    for path in folder.iterdir():
        shutil.copy(path, own)
    return open_hf(own)


def asked(n: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = np.random.default_rng(8)
    prompts = [draw.integers(3, 40, length).tolist() for length in (4, 17, 1, 9, 26, 9, 13)]
    return prompts, [[100 * place + index for index in range(n)] for place in range(len(prompts))]


def drawn(model: HF, monkeypatch, in_batches: bool, rows: int, sampling: Sampling) -> list:
    monkeypatch.setattr("engine.models.hf._GENERATE_ROWS", rows)
    model.__dict__["_decodes"] = not in_batches
    prompts, seeds = asked(sampling.n)
    found = []
    for group in model.generate(prompts, seeds, sampling):
        found += [(sample.ids, sample.finish_reason, sample.said, sample.token_logps) for sample in group]
    return found


def check_refilled(model: HF, monkeypatch, rows: int, sampling: Sampling) -> None:
    assert model._decodes, "the model is one that runs packed"
    whole = drawn(model, monkeypatch, True, 64, sampling)
    refilled = drawn(model, monkeypatch, False, rows, sampling)
    assert len({tuple(ids) for ids, *_ in whole}) > len(whole) // 2
    assert len({len(ids) for ids, *_ in whole}) > 2, "samples end at different times"
    for ours, theirs in zip(refilled, whole, strict=True):
        assert ours[:3] == theirs[:3]
        np.testing.assert_allclose(ours[3], theirs[3], atol=2e-5)


@pytest.mark.parametrize("name", PACKED)
def test_refilled_rows_give_the_samples_of_whole_batches(family, model_path, tmp_path, monkeypatch, name):
    """With fewer rows than samples: rows are given up, moved and taken; longer than Gemma's window."""
    sampling = Sampling(n=2, temperature=1.2, max_tokens=12, **SHAPED)
    model = open_family(family(name), model_path, tmp_path / "model")
    check_refilled(model, monkeypatch, 5, sampling)


@pytest.mark.long
@pytest.mark.parametrize("name", MORE)
def test_refilled_rows_of_more_families(family, model_path, tmp_path, monkeypatch, name):
    sampling = Sampling(n=3, temperature=1.1, top_p=0.9, max_tokens=20, stop_token_ids=STOPS)
    model = open_family(family(name), model_path, tmp_path / "model")
    check_refilled(model, monkeypatch, 4, sampling)


@pytest.mark.parametrize(
    "keys",
    [
        {"temperature": 1.0, "stop": ("1", "a")},
        {"temperature": 0.0, "n": 1, "bad_words": ("1",), "stop_token_ids": STOPS},
        {"temperature": 1.5, "top_k": 9, "min_p": 0.01, "top_p": 0.9, "stop_token_ids": STOPS},
        {"temperature": 1.0, "frequency_penalty": 1.0, "presence_penalty": -0.3, "stop_token_ids": STOPS},
    ],
    ids=lambda keys: "-".join(keys),
)
@pytest.mark.parametrize("rows", [1, 4])
def test_every_key_has_its_effect_in_rows_that_are_refilled(model_path, monkeypatch, keys, rows):
    sampling = Sampling(**{"n": 3, "max_tokens": 14, **keys})
    model = open_hf(model_path)
    whole = drawn(model, monkeypatch, True, 64, sampling)
    refilled = drawn(model, monkeypatch, False, rows, sampling)
    assert [one[:3] for one in refilled] == [one[:3] for one in whole]
    assert sampling.temperature == 0 or len({len(ids) for ids, *_ in whole}) > 1


def test_a_model_with_another_state_than_keys_and_values_samples_in_batches(family, model_path, tmp_path):
    model = open_family(family("lfm2"), model_path, tmp_path / "model")
    assert not model._decodes
    prompts, seeds = asked(1)
    found = model.generate(prompts, seeds, Sampling(max_tokens=4))
    assert [len(group) for group in found] == [1] * len(prompts)


def test_a_prompt_is_run_once_and_each_token_after_it_once(model_path, monkeypatch):
    """However many samples it has: those that begin later take over what a row has of it."""
    model = open_hf(model_path)
    assert model._decodes and model._token_bytes, "what is tried once is not counted"
    fed = []
    model._model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: fed.append(args[0].numel())
    )
    monkeypatch.setattr("engine.models.hf._GENERATE_ROWS", 3)
    prompt = list(range(5, 25))
    sampling = Sampling(n=7, max_tokens=30, stop_token_ids=STOPS)
    (samples,) = model.generate([prompt], [list(range(7))], sampling)
    tokens = sum(len(sample.ids) for sample in samples)
    # Three samples begin with the prompt and four with its last token; no sample's last token is fed.
    assert sum(fed) == len(prompt) + 4 + tokens - 7


def test_one_long_sample_holds_no_others(model_path, monkeypatch):
    """Rows x steps is what is paid: with refilled rows about the tokens, in batches the longest of each."""
    model = open_hf(model_path)
    monkeypatch.setattr("engine.models.hf._GENERATE_ROWS", 4)
    prompts, seeds = asked(6)
    sampling = Sampling(n=6, max_tokens=40, stop_token_ids=STOPS)
    assert model._decodes
    fed = []
    model._model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: fed.append(args[0].numel())
    )
    samples = model.generate(prompts, seeds, sampling)
    lengths = [len(sample.ids) for group in samples for sample in group]
    steps = len(fed)
    assert max(lengths) > 2 * np.mean(lengths)
    assert steps < sum(lengths) / 4 + max(lengths)


def test_a_call_that_fails_on_the_way_leaves_the_model_as_it_was(model_path):
    """What is told of its progress fails, as where a run is stopped; the next call knows nothing of it."""
    model = open_hf(model_path)
    prompts, seeds = asked(1)
    sampling = Sampling(max_tokens=6)
    scored = model.logprobs(prompts, [[prompt] for prompt in prompts])

    class Stopped(StageProgress):
        def done(self, responses: int, tokens: int) -> None:
            raise KeyboardInterrupt

    wanted = model.generate(prompts, seeds, sampling)
    with pytest.raises(KeyboardInterrupt):
        model.generate(prompts, seeds, sampling, Stopped())
    again = model.logprobs(prompts, [[prompt] for prompt in prompts])
    assert [group[0].tolist() for group in again] == [group[0].tolist() for group in scored]
    found = model.generate(prompts, seeds, sampling)
    assert [group[0].ids for group in found] == [group[0].ids for group in wanted]


def test_rows_keep_what_is_theirs_when_others_end():
    """Lengths and keys of rows that are moved, copied and made longer, against plain lists."""
    draw = np.random.default_rng(0)
    rows, held = Rows(5), []
    number = 0
    for _ in range(200):
        if len(held) < 5 and draw.random() < 0.5:
            if held and draw.random() < 0.5:
                source = int(draw.integers(0, len(held)))
                length = int(draw.integers(0, len(held[source]) + 1))
                rows.begin_as(source, length)
                held.append(held[source][:length])
            else:
                rows.lengths.append(0)
                held.append([])
        if held and draw.random() < 0.3:
            over = int(draw.integers(0, len(held)))
            rows.end(over)
            held[over] = held[-1]
            held.pop()
        for row, tokens in enumerate(held):
            number += 1
            tokens = [*tokens, number]
            held[row] = tokens
            rows.reserve(len(tokens))
            keys, values = rows.of_layer(2, torch.zeros(1, 3, 1, 4), torch.zeros(1, 3, 1, 2))
            keys[row, :, len(tokens) - 1] = number
            values[row, :, len(tokens) - 1] = -number
            rows.lengths[row] += 1
        assert rows.lengths == [len(tokens) for tokens in held]
    assert number > 500
    for row, tokens in enumerate(held):
        assert keys[row, 1, : len(tokens), 3].tolist() == tokens
        assert values[row, 2, : len(tokens), 0].tolist() == [-token for token in tokens]


def test_several_threads_may_call_its_verbs(model_path):
    """Each of them changes how the model attends; the numbers are those of one thread alone."""
    model = open_hf(model_path)
    prompts, seeds = asked(1)
    sampling = Sampling(max_tokens=20)
    wanted = model.generate(prompts, seeds, sampling)
    scored = model.logprobs(prompts, [[prompt] for prompt in prompts])
    failures: list[object] = []

    def generate() -> None:
        found = model.generate(prompts, seeds, sampling)
        if [group[0].ids for group in found] != [group[0].ids for group in wanted]:
            failures.append("generate")

    def score() -> None:
        for _ in range(10):
            found = model.logprobs(prompts, [[prompt] for prompt in prompts])
            for ours, theirs in zip(found, scored, strict=True):
                if np.abs(ours[0] - theirs[0]).max() > 1e-6:
                    failures.append("logprobs")

    def run(work) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (generate, score, generate, score)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("tokens", [1, 4 * 64])
def test_samples_are_the_same_where_memory_holds_few_rows(model_path, monkeypatch, tokens):
    """Some wait, some begin anew; the cache is never larger than what it may have, unless by a single row."""
    model = open_hf(model_path)
    prompts, seeds = asked(1)
    sampling = Sampling(temperature=1.2, max_tokens=45)
    wanted = model.generate(prompts, seeds, sampling)
    sizes: list[tuple[int, int]] = []
    reserve = Rows.reserve

    def watched(rows: Rows, longest: int) -> None:
        reserve(rows, longest)
        for keys, _ in rows._layers.values():
            sizes.append((keys.shape[0], keys.shape[0] * keys.shape[2]))

    monkeypatch.setattr(Rows, "reserve", watched)
    monkeypatch.setattr("engine.models.side_by_side._CPU_BYTES", tokens * token_bytes(model._model))
    found = model.generate(prompts, seeds, sampling)
    assert [[one.ids for one in group] for group in found] == [[one.ids for one in group] for group in wanted]
    assert all(rows == 1 or size <= tokens for rows, size in sizes)
    assert max(rows for rows, _ in sizes) == max(1, tokens // 64)


def test_long_prompts_are_not_drawn_beside_short_ones():
    lengths = (3, 5000, 512, 513, 1024, 1025, 40, 2500, 4096)
    classes = list(by_length([Asked(8, length, place, 0) for place, length in enumerate(lengths)]))
    found = [sorted(one.length for one in alike) for alike in classes]
    assert found == [[5000], [2500, 4096], [1025], [513, 1024], [3, 40, 512]]


def test_a_closed_model_ends_the_call_that_is_under_way(model_path):
    """At its next token, whoever closes it; what comes later loads nothing."""
    model = open_hf(model_path)
    prompts, seeds = asked(2)

    class Closing(StageProgress):
        ended = 0

        def done(self, responses: int, tokens: int) -> None:
            self.ended += 1
            model.close()

    closing = Closing()
    with pytest.raises(UserError, match="stopped"):
        model.generate(prompts, seeds, Sampling(n=2, max_tokens=20, stop_token_ids=STOPS), closing)
    assert 0 < closing.ended < 2 * len(prompts)
    for verb in (lambda: model.generate(prompts, seeds, Sampling()), lambda: model.logprobs([[5]], [[[6]]])):
        with pytest.raises(UserError, match="stopped"):
            verb()
    assert "_model" not in model.__dict__


def test_layers_are_as_before_where_packing_fails_on_the_way(model_path, monkeypatch):
    model = open_hf(model_path)._model
    pack = torch.ops.mkldnn._reorder_linear_weight
    left = [3]

    def fails(*args):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("no memory")
        return pack(*args)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", fails)
    with pytest.raises(RuntimeError, match="no memory"), packed_linears(model):
        pass
    assert not any("forward" in module.__dict__ for module in model.modules())
