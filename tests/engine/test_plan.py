"""A plan looks at each model once, and a planned run can be sent to a worker."""

import json
import pickle
from dataclasses import replace

import pytest

from engine.gaps import missing
from engine.plan import check_unchanged, plan
from schemas import identity
from schemas.errors import NothingMade, UserError
from schemas.recipe import load
from schemas.sections import Given
from tests.conftest import ROOT

RECIPE = """
[model]
[prompts]
shards = 2
[generate]
n = 1
max_tokens = 4
[judge]
[rewrite]
max_tokens = 4
[logprobs]
[pairs]
choose = "rewritten_vs_parent"
"""


@pytest.fixture
def counted(monkeypatch):
    """The models that were identified, in order."""
    names: list[str] = []
    identify = identity.identify

    def count(model):
        names.append(model.name)
        return identify(model)

    monkeypatch.setattr("engine.models.spec.identify", count)
    monkeypatch.setattr("schemas.identity.identify", count)
    return names


def recipe_of(tmp_path, model, *more, prompts=40):
    from pipelines.sandbox import world

    rows = [json.dumps(row) + "\n" for row in world.prompts(5, prompts)]
    (tmp_path / "p.jsonl").write_text("".join(rows))
    (tmp_path / "r.toml").write_text(RECIPE)
    return load(tmp_path / "r.toml", [f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model}", *more])


def test_a_model_that_all_stages_share_is_resolved_once(tmp_path, model_path, counted):
    run = plan(tmp_path / "run", recipe_of(tmp_path, model_path))
    assert counted == [str(model_path)]
    assert set(run.models) == {"generate", "judge", "rewrite", "logprobs"}
    assert len({model.identity.weights for model in run.models.values()}) == 1


def test_two_models_are_resolved_once_each(tmp_path, model_path, other_model, counted):
    other = tmp_path / "other"
    other.symlink_to(model_path)
    plan(tmp_path / "run", recipe_of(tmp_path, model_path, f"judge.model={other}", f"rewrite.model={other}"))
    assert sorted(counted) == sorted([str(model_path), str(other)])


@pytest.mark.parametrize("prompts", [4, 60])
def test_making_looks_a_model_up_as_often_for_many_prompts_as_for_few(prompts, tmp_path, counted, capsys):
    """Once to plan, once when it was loaded, once when its tokenizer was: it must not have changed since."""
    from engine.commands.precompute import precompute

    model = ROOT / "pipelines" / "sandbox" / "model"
    recipe = recipe_of(tmp_path, model, "judge.min_mass=0", prompts=prompts)
    with pytest.raises(NothingMade):  # one response a prompt is no pair
        precompute(tmp_path / "run", recipe, 1)
    assert len(counted) <= 3


def test_a_planned_run_can_be_sent_to_a_worker(tmp_path, model_path):
    run = plan(tmp_path / "run", recipe_of(tmp_path, model_path))
    received = pickle.loads(pickle.dumps(run))
    assert received == run
    assert missing(received) == {0: list(run.stages), 1: list(run.stages)}


def test_cheap_refusals_come_before_a_model_is_looked_up(tmp_path, model_path, counted):
    recipe = recipe_of(tmp_path, model_path, "judge.rating_prompt=nowhere")
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    sections = {name: recipe.sections[name] for name in ("model", "prompts", "judge")}
    sections = {"model": sections["model"], "prompts": sections["prompts"], "given": Given(), **sections}
    with pytest.raises(UserError, match="no 'nowhere' in pipelines/prompts"):
        plan(tmp_path / "run", replace(recipe, sections=sections))
    assert counted == []


def test_what_changes_after_planning_is_refused(tmp_path, model_path, counted):
    """What a model is told is part of the folders' names; models themselves are not looked up again."""
    prompt = tmp_path / "mine.txt"
    prompt.write_text("Rate {{ response }} to {{ conversation }}")
    run = plan(tmp_path / "run", recipe_of(tmp_path, model_path, f"judge.rating_prompt={prompt}"))
    check_unchanged(run)
    prompt.write_text("Rate it: {{ response }} to {{ conversation }}")
    with pytest.raises(UserError, match=r"\[judge\] changed while the run was starting: rating_prompt"):
        check_unchanged(run)
    assert counted == [str(model_path)]
