"""The optimizers: 8-bit moments and bfloat16 weights do what float32 ones do, as far as they can."""

import pytest
import torch
from torch import nn

from schemas.errors import UserError
from schemas.sections import Train
from trainer.job import check_weights
from trainer.optimizers import draw_rounding_by, make_optimizer, restore_state, stored_state, trained

pytest.importorskip("torchao")


def module(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights of which torchao quantises the moments (4096 and more) and some that it does not."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(48, 96), nn.Tanh(), nn.Linear(96, 64), nn.Linear(64, 3)).to(dtype)


def learn(model: nn.Module, config: Train, steps: int, begin: int = 0, optimizer=None) -> list[float]:
    """Learn what another model of the same kind says; the loss of each step."""
    teacher = module(seed=9)
    optimizer = optimizer or make_optimizer(model, config)
    losses = []
    for step in range(begin, begin + steps):
        draw = torch.Generator().manual_seed(step)
        inputs = torch.randn(37, 48, generator=draw)
        outputs = model(inputs.to(next(model.parameters()).dtype)).float()
        loss = (outputs - teacher(inputs)).square().mean()
        loss.backward()
        torch.manual_seed(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_8_bits_are_quantised_again_to_themselves():
    model = module()
    optimizer = make_optimizer(model, Train(optimizer="adamw_8bit", learning_rate=1e-3))
    learn(model, Train(), 5, optimizer=optimizer)
    quantised = 0
    for parameter in trained(optimizer):
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[parameter][name]
            if not hasattr(moment, "codes"):
                continue
            quantised += 1
            again = optimizer._new_buffer(parameter, name == "exp_avg")
            again.copy_(moment.dequantize())
            assert torch.equal(again.codes, moment.codes) and torch.equal(again.scale, moment.scale)
            assert moment.dequantize().abs().sum() > 0
    assert quantised == 4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "rmsprop"},
        {"optimizer": "adamw_8bit"},
        {"weights": "bfloat16"},
        {"optimizer": "adamw_8bit", "weights": "bfloat16"},
    ],
    ids=str,
)
def test_what_is_stored_and_put_back_goes_on_to_the_same_bits(settings):
    dtype = torch.bfloat16 if settings.get("weights") == "bfloat16" else torch.float32
    config = Train(**{"learning_rate": 1e-3, "weight_decay": 0.1} | settings)
    whole = module(dtype=dtype)
    learn(whole, config, 9)
    first = module(dtype=dtype)
    optimizer = make_optimizer(first, config)
    learn(first, config, 4, optimizer=optimizer)
    stored = {name: value.clone() for name, value in stored_state(optimizer)}
    assert all(type(value) is torch.Tensor for value in stored.values())  # such as a file can hold

    second = module(seed=1, dtype=dtype)
    second.load_state_dict(first.state_dict())
    again = make_optimizer(second, config)
    for number in range(len(trained(again))):
        own = {
            name.partition(".")[2]: value for name, value in stored.items() if name.startswith(f"{number}.")
        }
        restore_state(again, number, own)
    learn(second, config, 5, begin=4, optimizer=again)
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name]), name


def test_8_bit_adam_follows_adam():
    exact, coarse = module(), module()
    losses = learn(exact, Train(learning_rate=3e-3), 60)
    rounded = learn(coarse, Train(learning_rate=3e-3, optimizer="adamw_8bit"), 60)
    assert losses[-1] < 0.4 * losses[0]
    assert rounded[-1] == pytest.approx(losses[-1], rel=0.1)
    assert rounded[1:] != losses[1:]  # it is another arithmetic


def moved(config: Train, repeats: int, optimizer_of=make_optimizer) -> float:
    """How far a weight of 1 moves on average in one step along a gradient of ones."""
    total = 0.0
    for repeat in range(repeats):
        weights = nn.Linear(128, 64, bias=False).bfloat16()
        with torch.no_grad():
            weights.weight.fill_(1.0)
        optimizer = optimizer_of(weights, config)
        weights.weight.grad = torch.ones_like(weights.weight)
        torch.manual_seed(repeat)
        optimizer.step()
        total += 1.0 - weights.weight.double().mean().item()
    return total / repeats


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_weights_in_bfloat16_move_on_average_by_what_float32_does(name):
    """Below 1 the next bfloat16 number is 2⁻⁸ away: an update of 2e-5 is taken once in 200 times.

    Rounded to the nearest, no weight moves at all. 655,360 roundings: the mean is known to 2 %."""
    config = Train(learning_rate=2e-5, optimizer=name, weights="bfloat16")
    assert moved(config, 80) == pytest.approx(2e-5, rel=0.08)

    def nearest(weights: nn.Module, config: Train) -> torch.optim.Optimizer:
        return torch.optim.AdamW(weights.parameters(), lr=config.learning_rate, weight_decay=0.0)

    assert moved(config, 2, nearest) == 0.0


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_moments_of_weights_in_bfloat16_fall_when_the_gradients_do(name):
    """After large gradients come small ones: v goes down by (1 − β₂) a step, as in float32."""
    found = []
    for dtype, config in (
        (torch.float32, Train(learning_rate=1e-4)),
        (torch.bfloat16, Train(learning_rate=1e-4, optimizer=name, weights="bfloat16")),
    ):
        model = nn.Linear(128, 64).to(dtype)
        optimizer = make_optimizer(model, config)
        for step in range(120):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 if step < 20 else 0.01)
            optimizer.step()
        second = [value for key, value in stored_state(optimizer) if key.endswith("exp_avg_sq")]
        found.append([value.float().mean().item() for value in second])
    assert found[1] == pytest.approx(found[0], rel=0.02)


def test_weights_in_bfloat16_learn_what_float32_ones_do():
    exact, coarse = module(), module(dtype=torch.bfloat16)
    losses = learn(exact, Train(learning_rate=3e-3), 60)
    rounded = learn(coarse, Train(learning_rate=3e-3, weights="bfloat16"), 60)
    assert rounded[-1] == pytest.approx(losses[-1], rel=0.25)


def test_weight_decay_is_on_matrices_alone():
    optimizer = make_optimizer(module(), Train(weight_decay=0.1))
    matrices, vectors = optimizer.param_groups
    assert {parameter.dim() for parameter in matrices["params"]} == {2} and matrices["weight_decay"] == 0.1
    assert {parameter.dim() for parameter in vectors["params"]} == {1} and vectors["weight_decay"] == 0.0


def test_rmsprop_does_not_round_at_random_and_is_refused():
    with pytest.raises(UserError, match="rmsprop does not") as refused:
        check_weights(Train(optimizer="rmsprop", weights="bfloat16", dtype="bfloat16"))
    assert 'train.optimizer = "adamw"' in str(refused.value)
    check_weights(Train(optimizer="adamw", weights="bfloat16", dtype="bfloat16"))
    check_weights(Train(optimizer="rmsprop", weights="float32"))


def test_without_torchao_the_remedy_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    for settings, said in (({"optimizer": "adamw_8bit"}, "optimizer"), ({"weights": "bfloat16"}, "weights")):
        with pytest.raises(
            UserError, match=rf'train\.{said} = .* needs torchao: pip install "prefmill\[torchao\]"'
        ):
            make_optimizer(module(), Train(**settings))


def test_rounding_is_drawn_by_the_recipes_seed_the_step_and_the_part_of_the_weights():
    def numbers(*key: int) -> list[int]:
        draw_rounding_by(*key)
        return torch.randint(0, 1 << 16, (50,)).tolist()

    keys = ((0, 3, 0), (1, 3, 0), (0, 4, 0), (0, 3, 1))
    drawn = [numbers(*key) for key in keys]
    assert drawn == [numbers(*key) for key in keys]
    assert len(set(map(tuple, drawn))) == len(keys)
