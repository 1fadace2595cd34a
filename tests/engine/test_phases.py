"""Phases: one model at a time, each stage in one phase, in order."""

import multiprocessing as mp
import queue
import threading
import time

import pytest

from engine.executors import local
from engine.executors import phases as executing
from engine.executors.phases import ModelOpener, Phase, phases, under_way
from engine.executors.ray_actor import Actor
from engine.executors.worker import Failed, _LineToDriver, last_words
from engine.plan import Run, plan
from schemas.errors import UserError
from schemas.recipe import load

RECIPE = """
[model]
[prompts]
format = "prompts"
shards = 2
[generate]
[judge]
[rewrite]
[logprobs]
[pairs]
choose = "rewritten_vs_parent"
"""


def planned(tmp_path, model_path, *settings) -> Run:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "r.toml").write_text(RECIPE)
    words = [f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model_path}", *settings]
    return plan(tmp_path / "run", load(tmp_path / "r.toml", words))


def named(tmp_path, model_path, monkeypatch, *settings):
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: True)
    monkeypatch.setattr("engine.models.spec.gpu_is_there", lambda: False)
    run = planned(tmp_path, model_path, *settings)
    found = phases(run)
    assert [stage for phase in found for stage in phase.stages] == list(run.stages)
    return [[stage.name for stage in phase.stages] for phase in found]


def test_one_model_is_one_phase(tmp_path, model_path, monkeypatch):
    assert len(named(tmp_path, model_path, monkeypatch, "model.backend=hf")) == 1
    assert len(named(tmp_path, model_path, monkeypatch)) == 1, "auto that comes to hf is hf"


def test_a_phase_keeps_the_bound_on_memory(tmp_path, model_path, monkeypatch):
    assert len(named(tmp_path, model_path, monkeypatch, "model.backend=hf", "logprobs.batch_tokens=99")) == 1
    run = plan(
        tmp_path / "run",
        load(
            tmp_path / "r.toml",
            [
                f"prompts.source={tmp_path / 'p.jsonl'}",
                f"model.name={model_path}",
                "logprobs.batch_tokens=99",
            ],
        ),
    )
    assert phases(run)[0].model.spec.batch_tokens == 99


def test_another_backend_or_model_begins_a_phase(tmp_path, model_path, monkeypatch):
    made = ["prompts", "generate", "judge", "rewrite"]
    assert named(tmp_path, model_path, monkeypatch, "model.backend=vllm") == [made, ["logprobs", "pairs"]]
    assert named(tmp_path, model_path, monkeypatch, "model.backend=vllm", "logprobs.backend=vllm") == [
        [*made, "logprobs", "pairs"]
    ]
    (tmp_path / "other").symlink_to(model_path)
    assert named(
        tmp_path, model_path, monkeypatch, "model.backend=hf", f"rewrite.model={tmp_path / 'other'}"
    ) == [made[:3], ["rewrite"], ["logprobs", "pairs"]]


def test_a_stage_that_asks_a_server_shares_no_phase_with_a_model(tmp_path, model_path):
    """Its requests run in this process, and no model waits in memory for them."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "r.toml").write_text(RECIPE)
    served = [f"{name}.{key}" for name in ("judge", "rewrite") for key in ("base_url=http://h/v1", "model=m")]
    source = [f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model_path}", "model.backend=hf"]
    run = plan(tmp_path / "run", load(tmp_path / "r.toml", [*source, *served]))
    found = phases(run)
    names = [[stage.name for stage in phase.stages] for phase in found]
    assert names == [["prompts", "generate"], ["judge", "rewrite"], ["logprobs", "pairs"]]
    assert [phase.asks_server for phase in found] == [False, True, False]
    assert [phase.model is None for phase in found] == [False, True, False]
    assert set(run.models) == {"generate", "logprobs"}


class _NoProgress:
    """Implements Progress."""

    def shard_done(self, stage, marker) -> None:
        pass

    def work(self, work) -> None:
        pass


def over_a_pipe():
    """A worker process's line to a driver that has given shard 0 and answers nothing more."""
    ours, theirs = mp.Pipe()
    ours.send(0)
    return _LineToDriver(theirs), ours


def of_an_actor():
    """An actor of a Ray cluster in the same place."""
    actor = Actor.__new__(Actor)
    actor._news, actor._shards = queue.SimpleQueue(), queue.SimpleQueue()
    actor.give(0)
    return actor, None


def ended(work) -> list[object]:
    """What comes of work in another thread, which must not take long."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(10)
    assert found, "it hangs"
    return found


@pytest.mark.parametrize("line_of", [over_a_pipe, of_an_actor])
def test_an_error_ends_a_worker_that_waits_for_another_shard(line_of, monkeypatch):
    """The driver answers only when the failed shard is out of its hands, so nobody may wait for it."""
    line, kept = line_of()

    def fails(*_, **__):
        time.sleep(0.1)  # the other thread asks meanwhile
        raise UserError("the shard cannot be made")

    monkeypatch.setattr(executing, "under_way", lambda phase, place: 2)
    monkeypatch.setattr(executing, "make", fails)
    (said,) = ended(lambda: last_words(None, Phase((), None), "auto", 1, line))
    assert isinstance(said, Failed) and str(said.error) == "the shard cannot be made", kept


def test_closing_does_not_wait_for_a_model_that_loads(tmp_path, model_path, monkeypatch):
    run = planned(tmp_path, model_path, "model.backend=hf")
    loads = threading.Event()

    def loading(*_, **__):
        loads.set()
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr(executing, "open_model", loading)
    opener = ModelOpener(run, phases(run)[0], "cpu", 1, _NoProgress())
    stage = next(stage for stage in run.stages if stage.name == "generate")

    def opened() -> str:
        with pytest.raises(UserError, match="stopped"):
            opener(stage)
        return "stopped"

    closing = threading.Thread(target=lambda: (loads.wait(5), opener.close()))
    closing.start()
    begun = time.monotonic()
    assert ended(opened) == ["stopped"]
    closing.join()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("places", "count"), [(["cuda:0"], 2), (["cpu"], 1), (["cuda:0", "cuda:1"], 2)])
def test_a_single_worker_knows_its_place(tmp_path, model_path, monkeypatch, places, count):
    """So a GPU works on one shard while stages without a model take another along."""
    run = planned(tmp_path, model_path, "model.backend=hf")
    phase = phases(run)[0]
    monkeypatch.setattr(local, "places", lambda spec: places)
    gaps = {0: list(run.stages), 1: list(run.stages)}
    where = local._places_of_workers(run, phase, 2, gaps, workers=1)
    assert where == places[:1] and under_way(phase, where[0]) == count
