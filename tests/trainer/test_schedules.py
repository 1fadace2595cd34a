"""The learning rate is what transformers' scheduler of the same name makes of it, at every step."""

import json

import pytest
import torch
from transformers import get_scheduler

from trainer.schedules import make_schedule


def rates(make) -> list[float]:
    """The learning rate of each of 25 steps: more than the schedule has."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    scheduler = make(optimizer)
    found = []
    for _ in range(25):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 19, 22])
@pytest.mark.parametrize("steps", [1, 19])
@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_every_step_is_that_of_transformers(name, steps, warmup_steps):
    theirs = "constant_with_warmup" if name == "constant" else name
    wanted = rates(
        lambda optimizer: get_scheduler(
            theirs, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
        )
    )
    assert rates(lambda optimizer: make_schedule(optimizer, name, warmup_steps, steps)) == wanted
    assert wanted[0] == (0.0 if warmup_steps else 0.3)


@pytest.mark.parametrize("stopped_after", [1, 3, 11, 86])
def test_a_rate_held_as_a_tensor_is_the_same_after_a_checkpoint(stopped_after):
    """torchao holds it in float32. The product with the factor is made in float64 before and after."""
    found = []
    for is_stopped in (False, True):
        optimizer, scheduler = with_torchao()
        rates = []
        for step in range(120):
            if is_stopped and step == stopped_after:
                kept = json.loads(json.dumps(scheduler.state_dict(), default=lambda value: value.item()))
                rate = optimizer.param_groups[0]["lr"].item()
                optimizer, scheduler = with_torchao()
                scheduler.load_state_dict(kept)
                optimizer.param_groups[0]["lr"].fill_(rate)
            rates.append(optimizer.param_groups[0]["lr"].item())
            optimizer.step()
            scheduler.step()
        found.append(rates)
    assert found[0] == found[1] and len(set(found[0])) > 100


def with_torchao():
    optim = pytest.importorskip("torchao.optim")
    optimizer = optim.AdamW8bit([torch.nn.Parameter(torch.ones(2))], lr=5e-7)
    return optimizer, make_schedule(optimizer, "cosine", 7, 120)
