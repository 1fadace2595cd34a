"""The learning rate is what transformers' scheduler of the same name makes of it, at every step."""

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
