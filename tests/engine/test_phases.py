"""Phases: one model at a time, each stage in one phase, in order."""

from engine.executors.phases import phases
from engine.plan import plan
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


def named(tmp_path, model_path, monkeypatch, *settings):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "r.toml").write_text(RECIPE)
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: True)
    monkeypatch.setattr("engine.models.spec.gpu_is_there", lambda: False)
    run = plan(
        tmp_path / "run",
        load(
            tmp_path / "r.toml",
            [f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model_path}", *settings],
        ),
    )
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
