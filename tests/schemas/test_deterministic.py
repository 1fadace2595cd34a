"""The switch for the same bits each time: what it sets, what it refuses, and that the pass runs under it."""

import os

import pytest
import torch

from schemas.errors import UserError
from schemas.forward.deterministic import use_deterministic
from schemas.forward.load import prepare
from tests.schemas.test_forward import FAMILIES, build, groups, token_logps

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def switched_off(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def test_it_switches_on_and_off():
    use_deterministic(True)
    # Not "warn only": flash attention orders its backward pass in this mode alone.
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ[VARIABLE] == ":4096:8"
    use_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_the_pass_and_its_gradient_run_under_it_and_are_the_same(family):
    gradients = []
    for wanted in (False, True):
        use_deterministic(wanted)
        model = prepare(build(FAMILIES[family]))
        token_logps(model, groups()).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for fast, ordered in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, ordered, atol=1e-6, rtol=1e-5)


def test_an_environment_that_says_otherwise_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setenv(VARIABLE, ":0:0")
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0: it must be :4096:8.* unset"):
        use_deterministic(True)
    monkeypatch.delenv(VARIABLE)
    use_deterministic(True)  # the remedy


def test_it_is_refused_when_cublas_has_started_already(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="start again with CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        use_deterministic(True)
    monkeypatch.setenv(VARIABLE, ":4096:8")
    use_deterministic(True)  # the remedy
