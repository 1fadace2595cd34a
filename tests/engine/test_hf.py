"""The embedded model: log-probs equal an independent dense computation; a sample depends on its prompt and
seed alone."""

import itertools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.models.batches import batches
from engine.models.hf import HF
from engine.models.sampling import keep_top_p
from engine.models.sharing import share
from engine.models.spec import ModelSpec, resolve
from schemas.errors import UserError
from schemas.sections import Model, Sampling


def open_hf(path, dtype="float32", planned=None, **spec):
    config = Model(name=str(path), dtype=dtype)
    return HF(resolve(ModelSpec(config, "hf", **spec)), "cpu", planned=planned)


@pytest.fixture(scope="module")
def work():
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 40, n).tolist() for n in (5, 11, 2, 23, 8)]
    responses = [
        [draw.integers(0, 40, n).tolist() for n in lengths]
        for lengths in ((3, 9), (1,), (7, 2, 4, 6), (), (12, 5, 1))
    ]
    return prompts, responses


@pytest.mark.parametrize("batch_tokens", [10, 33, 4096])
def test_logprobs_are_dense_ones_whatever_the_batch(model_path, work, batch_tokens):
    prompts, responses = work
    found = open_hf(model_path, batch_tokens=batch_tokens).logprobs(prompts, responses)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    for prompt, group, scored in zip(prompts, responses, found, strict=True):
        assert len(group) == len(scored)
        for response, logps in zip(group, scored, strict=True):
            with torch.no_grad():
                want = (
                    model(torch.tensor([[*prompt, *response]]))
                    .logits[0]
                    .log_softmax(-1)[len(prompt) - 1 : -1]
                )
            assert logps.dtype == np.float32
            np.testing.assert_allclose(
                logps, want.gather(1, torch.tensor(response)[:, None])[:, 0], atol=1e-5
            )


def test_the_prompt_is_run_once_for_its_responses(model_path, work):
    model = open_hf(model_path, batch_tokens=4096)
    fed = []
    model._model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: fed.append(args[0].numel())
    )
    prompts, responses = work
    model.logprobs(prompts, responses)
    assert sum(fed) == sum(
        len(prompt) for prompt, group in zip(prompts, responses, strict=True) if group
    ) + sum(len(r) - 1 for group in responses for r in group)


def test_batches_hold_each_response_once_within_the_budget(work):
    prompts, responses = work
    found = batches(prompts, responses, 20)
    assert sorted((piece.prompt, k) for batch in found for piece in batch for k in piece.responses) == [
        (i, k) for i, group in enumerate(responses) for k in range(len(group))
    ]
    for batch in found:
        tokens = 0
        for piece in batch:
            group = responses[piece.prompt]
            tokens += len(prompts[piece.prompt]) + sum(len(group[k]) for k in piece.responses)
        assert tokens <= 20 or (len(batch) == 1 and len(batch[0].responses) == 1)


def questions() -> tuple[list[list[int]], list[list[list[int]]]]:
    """A judge's: of three prompts, all of which begin alike, one asked twice, one begins another."""
    draw = np.random.default_rng(3)

    def tokens(n):
        return draw.integers(0, 40, n).tolist()

    head = tokens(19)
    prompts = []
    for size in (31, 8, 14):
        question = head + tokens(size)
        prompts += [question + tokens(n) for n in (6, 3, 11)]
    prompts += [list(prompts[4]), prompts[4][:-2], tokens(9), tokens(1)]
    order = draw.permutation(len(prompts))
    prompts = [prompts[place] for place in order]
    asked = [[[token] for token in tokens(n)] for n in draw.integers(1, 6, len(prompts))]
    asked[0] = [[3], [5], [3]]  # a token may be asked about twice
    return prompts, asked


@pytest.mark.parametrize("batch_tokens", [25, 90, 4096])
@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_questions_that_begin_alike_are_answered_as_if_each_stood_alone(model_path, batch_tokens, attention):
    prompts, asked = questions()
    model = open_hf(model_path, batch_tokens=batch_tokens)
    if attention == "padded":
        model._model.config._attn_implementation = "sdpa"
    fed = []
    model._model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: fed.append(args[0].numel())
    )
    found = model.logprobs(prompts, asked)
    model._model.config._attn_implementation = "sdpa"
    for prompt, tokens, logps in zip(prompts, asked, found, strict=True):
        with torch.no_grad():
            want = (
                model._model(torch.tensor([prompt]), use_cache=False).logits[0, -1].double().log_softmax(-1)
            )
        assert [row.shape for row in logps] == [(1,)] * len(tokens)
        assert all(row.dtype == np.float32 for row in logps)
        np.testing.assert_allclose(np.concatenate(logps), want[torch.tensor(tokens)[:, 0]], atol=1e-5)
    if attention == "packed" and batch_tokens == 4096:
        assert sum(fed[: -len(prompts)]) < 0.6 * sum(map(len, prompts))


def test_sharing_holds_each_prompt_once_and_saves_what_can_be_saved():
    """Against all ways to group six prompts (203 partitions) on many small draws."""
    draw = np.random.default_rng(0)
    for _ in range(60):
        prompts = [draw.integers(0, 2, draw.integers(1, 7)).tolist() for _ in range(6)]
        groups = share(prompts)
        assert sorted(member for group in groups for member in group.members) == list(range(6))
        for group in groups:
            first = prompts[group.members[0]][: group.length]
            assert len(first) == group.length
            assert all(prompts[member][: group.length] == first for member in group.members)
        assert saved(prompts, [group.members for group in groups]) == max(
            saved(prompts, partition) for partition in partitions(list(range(6)))
        )


def saved(prompts, partition) -> int:
    total = 0
    for members in partition:
        columns = zip(*(prompts[member] for member in members), strict=False)
        common = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
        total += (len(members) - 1) * common
    return total


def partitions(items):
    """Every way to put items into groups."""
    if not items:
        yield []
        return
    first, *others = items
    for rest in partitions(others):
        yield [[first], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [first, *rest[place]], *rest[place + 1 :]]


def test_a_sample_is_a_function_of_prompt_and_seed(model_path, work, monkeypatch):
    prompts, _ = work
    seeds = [[100 * i + k for k in range(3)] for i in range(len(prompts))]
    sampling = Sampling(n=3, temperature=1.3, top_p=0.95, max_tokens=9)
    model = open_hf(model_path)
    together = model.generate(prompts, seeds, sampling)
    monkeypatch.setattr("engine.models.hf._GENERATE_ROWS", 2)
    apart = model.generate(prompts, seeds, sampling)
    assert [[s.ids for s in group] for group in together] == [[s.ids for s in group] for group in apart]
    assert len({tuple(s.ids) for group in together for s in group}) > 10
    alone = model.generate(
        prompts[2:3], [[seeds[2][1]]], Sampling(n=1, temperature=1.3, top_p=0.95, max_tokens=9)
    )
    assert alone[0][0].ids == together[2][1].ids


def test_a_samples_log_probs_are_those_of_the_scoring_pass(model_path, work):
    prompts, _ = work
    model = open_hf(model_path)
    samples = model.generate(
        prompts, [[i, i + 50] for i in range(5)], Sampling(n=2, temperature=0.7, max_tokens=12)
    )
    scored = model.logprobs(prompts, [[s.ids for s in group] for group in samples])
    for group, logps in zip(samples, scored, strict=True):
        for sample, want in zip(group, logps, strict=True):
            np.testing.assert_allclose(sample.token_logps, want, atol=2e-5)
            assert sample.finish_reason == ("stop" if sample.ids[-1] in model.text.stop_ids else "length")
            assert not set(sample.ids[:-1]) & model.text.stop_ids


def test_greedy_is_the_most_likely_token(model_path, work):
    prompts, _ = work
    model = open_hf(model_path)
    for prompt, (sample,) in zip(
        prompts, model.generate(prompts, [[0]] * 5, Sampling(temperature=0.0, max_tokens=6)), strict=True
    ):
        ids = list(prompt)
        with torch.no_grad():
            for token in sample.ids:
                model._model.config._attn_implementation = "sdpa"
                assert (
                    model._model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item() == token
                )
                ids.append(token)


def test_sampling_follows_the_distribution(model_path):
    """4,000 draws of one next token against its probabilities: chi-squared far below its 0.999 quantile's
    double."""
    model, prompt = open_hf(model_path), [7, 3, 9]
    draws = model.generate([prompt], [list(range(4000))], Sampling(n=4000, temperature=1.0, max_tokens=1))[0]
    with torch.no_grad():
        model._model.config._attn_implementation = "sdpa"
        p = model._model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1).numpy()
    seen = np.bincount([draw.ids[0] for draw in draws], minlength=len(p))
    assert ((seen - 4000 * p) ** 2 / (4000 * p)).sum() < len(p) + 4 * (2 * len(p)) ** 0.5


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.05, 0.9, 0.03, 0.02]])
    kept = keep_top_p(p.log(), 0.75).isfinite()
    assert kept.tolist() == [[True, False, True, False], [False, True, False, False]]


def test_the_folders_generation_config_bends_nothing(model_path, work, tmp_path):
    import json
    import shutil

    own = tmp_path / "model"
    shutil.copytree(model_path, own)
    (own / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 1.7, "do_sample": True, "top_k": 2, "temperature": 0.3})
    )
    prompts, _ = work
    sampling = Sampling(temperature=1.0, max_tokens=8)
    bent, plain = (open_hf(path).generate(prompts, [[1]] * 5, sampling) for path in (own, model_path))
    assert [group[0].ids for group in bent] == [group[0].ids for group in plain]


def test_weights_that_are_not_whole_are_refused(model_path, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    own = tmp_path / "model"
    shutil.copytree(model_path, own)
    tensors = load_file(own / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not whole.*layers.1.mlp.up_proj"):
        open_hf(own).logprobs([[1]], [[[2]]])


def test_a_model_that_changed_since_the_plan_is_refused(model_path):
    from schemas.identity import identify

    planned = identify(Model(name=str(model_path))).facts() | {"weights": "another"}
    with pytest.raises(UserError, match=r"weights of the model.*changed while the run was going"):
        open_hf(model_path, planned=planned).logprobs([[1]], [[[2]]])


@pytest.mark.parametrize(
    ("dtype", "message"), [("float8", "did you mean 'float32'"), ("float32", "does not load")]
)
def test_what_cannot_be_loaded_is_named(model_path, tmp_path, dtype, message):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model_path, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=message):
        open_hf(broken, dtype).logprobs([[1]], [[[2]]])


def test_only_rows_that_are_flat_are_sorted_whole_for_top_p(monkeypatch):
    """A row is cut to the same tokens alone and beside any other."""
    draw = torch.Generator().manual_seed(2)
    spread = torch.tensor([[9.0], [0.1], [5.0], [0.5]])
    logps = (torch.randn(4, 3000, generator=draw) * spread).log_softmax(-1)
    alone = [keep_top_p(row[None], 0.9)[0] for row in logps]
    sizes = []
    sort = torch.Tensor.sort

    def watched(self, *args, **keys):
        sizes.append(tuple(self.shape))
        return sort(self, *args, **keys)

    monkeypatch.setattr(torch.Tensor, "sort", watched)
    found = keep_top_p(logps, 0.9)
    assert sizes == [(2, 3000)]
    assert torch.equal(found, torch.stack(alone))
    for row, kept in zip(logps.double().exp(), found, strict=True):
        p = row[kept > -torch.inf]
        assert p.sum() >= 0.9 > p.sum() - p.min()
