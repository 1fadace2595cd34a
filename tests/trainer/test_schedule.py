"""The learning rate's schedule is transformers' own, to the bit, and so is what a checkpoint holds of it."""

import pytest
import torch


@pytest.mark.parametrize(
    ("name", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
@pytest.mark.parametrize(("warmup_steps", "steps"), [(0, 1), (0, 7), (3, 11), (5, 5), (9, 4)])
def test_the_schedule_is_that_of_transformers(name, theirs, warmup_steps, steps):
    from transformers import get_scheduler

    from trainer.schedules import make_schedule

    def optimizer():
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=3e-4)

    ours = make_schedule(optimizer(), name, warmup_steps, steps)
    oracle = get_scheduler(theirs, optimizer(), num_warmup_steps=warmup_steps, num_training_steps=steps)
    for _ in range(steps + 2):
        assert ours.get_last_lr() == oracle.get_last_lr()
        assert ours.state_dict() == oracle.state_dict()
        for schedule in (ours, oracle):
            schedule.optimizer.step()
            schedule.step()
