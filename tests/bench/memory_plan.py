"""Peaks of memory that were measured, beside what `trainer plan` says: alone, DDP, FSDP2, LoRA.

    .venv/bin/python tests/bench/memory_plan.py [--only NAME …] [--json]

- Each case runs in processes of its own, on the CPU, with a random model and random pairs: it opens the
  policy, then makes three steps. Two ranks talk by gloo.
- Measured is the highest resident memory of rank 0 over that of the same process after a step of a tiny
  model, so that libraries, threads and their buffers are not counted.
- `load` is the peak while the policy is opened, `steps` that of the steps, and `plan` the prediction.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.speed_works import DIALOGUES, LONG_RESPONSES, new_model, pairs_of  # noqa: E402

_SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
_SHORT = ([20] * 10, [20] * 10, [20] * 10)  # tokens of prompt, chosen, rejected
_WIDE = _SHAPE | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_WIDE |= {"num_key_value_heads": 12, "vocab_size": 2000, "num_hidden_layers": 20}
_DEEP = _SHAPE | {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "vocab_size": 8000}
_DEEP |= {"num_attention_heads": 6, "num_key_value_heads": 2}
_TINY = _SHAPE | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 600}
_LORA = {"lora": {"r": 16}}
_FREE_PORT = 0
LINE = "{case:<20} load {load:>6,} MiB   steps {steps:>6,} MiB   plan {plan:>6,} MiB   {off:+.1%}"


@dataclass(frozen=True)
class Case:
    """One measurement. `pairs`: of a step over all ranks; `lengths`: as in speed_works."""

    model: dict
    lengths: tuple
    pairs: int
    ranks: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


CASES = {
    "wide-ddp": Case(_WIDE, _SHORT, 2, 2, {"parallel": "ddp"}),
    "wide-fsdp": Case(_WIDE, _SHORT, 2, 2, {"parallel": "fsdp"}),
    "states-alone": Case(_SHAPE, DIALOGUES, 2),
    "states-ddp": Case(_SHAPE, DIALOGUES, 4, 2, {"parallel": "ddp"}),
    "states-fsdp": Case(_SHAPE, DIALOGUES, 4, 2, {"parallel": "fsdp"}),
    "states-ddp-passes": Case(_SHAPE, DIALOGUES, 8, 2, {"parallel": "ddp", "micro_batch_tokens": 512}),
    "states-fsdp-passes": Case(_SHAPE, DIALOGUES, 8, 2, {"parallel": "fsdp", "micro_batch_tokens": 512}),
    "activations-alone": Case(_DEEP, LONG_RESPONSES, 4, 1, {"micro_batch_tokens": 4096}),
    "activations-ddp": Case(_DEEP, LONG_RESPONSES, 8, 2, {"parallel": "ddp", "micro_batch_tokens": 4096}),
    "activations-fsdp": Case(_DEEP, LONG_RESPONSES, 8, 2, {"parallel": "fsdp", "micro_batch_tokens": 4096}),
    "checkpointed-alone": Case(
        _DEEP, LONG_RESPONSES, 8, 1, {"micro_batch_tokens": 8192, "gradient_checkpointing": "true"}
    ),
    "lora-alone": Case(_WIDE, DIALOGUES, 8, 1, {"options": _LORA}),
    "lora-ddp": Case(_WIDE, DIALOGUES, 8, 2, {"parallel": "ddp", "options": _LORA}),
    "lora-fsdp": Case(_WIDE, DIALOGUES, 8, 2, {"parallel": "fsdp", "options": _LORA}),
    "bfloat16-alone": Case(_SHAPE, LONG_RESPONSES, 4, 1, {"dtype": "bfloat16"}),
    "bfloat16-fsdp": Case(_SHAPE, LONG_RESPONSES, 4, 2, {"dtype": "bfloat16", "parallel": "fsdp"}),
}


def resident(name: str) -> int:
    """Bytes of this process by /proc: VmRSS now, VmHWM at most since the last `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def forget_peak() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def steps_of(case: Case, folder: Path, ranks: Any, pairs: list, steps: int) -> int:
    """Open a policy and make some steps. Returns the peak of opening it."""
    from schemas.sections import Train
    from trainer import losses
    from trainer.lora import Adapter
    from trainer.opening import open_policy
    from trainer.optimizers import make_optimizer
    from trainer.step import Stepper

    settings = {"dtype": "float32", "micro_batch_tokens": 2048} | case.settings
    config = Train(**settings)
    lora = losses.lora_of(config)
    adapter = Adapter(lora, 0, str(folder)) if lora else None
    parallel = open_policy(folder, config, ranks, adapter)
    opened = resident("VmHWM")
    forget_peak()
    optimizer = make_optimizer(parallel.policy, config)
    stepper = Stepper(parallel, losses.choose(config), config, ranks)
    for _ in range(steps):
        stepper.backward(pairs)
        parallel.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return opened


def child(name: str, folder: Path) -> dict[str, int]:
    """Measure a case in this process."""
    import torch

    from trainer import dist

    case = CASES[name]
    torch.set_num_threads(1)
    ranks = dist.start("cpu", 0)
    tiny = dataclasses.replace(case, model=_TINY)
    steps_of(tiny, folder / "tiny", ranks, pairs_of(DIALOGUES, 4, _TINY["vocab_size"]), 2)
    pairs = pairs_of(case.lengths, case.pairs, case.model["vocab_size"])
    before = resident("VmRSS")
    forget_peak()
    opened = steps_of(case, folder / "model", ranks, pairs, 3)
    found = {"load": opened - before, "steps": resident("VmHWM") - before}
    dist.stop()
    return found


def measure(name: str, folder: Path) -> dict[str, int]:
    """Run a case's processes. Returns what rank 0 found."""
    case = CASES[name]
    new_model(case.model, folder / "model")
    new_model(_TINY, folder / "tiny")
    running = []
    for rank in range(case.ranks):
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        if case.ranks > 1:
            env |= {"RANK": str(rank), "WORLD_SIZE": str(case.ranks), "MASTER_ADDR": "127.0.0.1"}
            env |= {"MASTER_PORT": str(_free_port())}
        words = [sys.executable, __file__, "--child", name, str(folder)]
        running.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), outputs
    found: dict[str, int] = json.loads(outputs[0].splitlines()[-1])
    return found


def planned(name: str, folder: Path) -> int:
    """The bytes that the plan gives rank 0 of a case."""
    from schemas.sections import Train
    from trainer import data, losses
    from trainer.memory import Predictor, Setting

    case = CASES[name]
    new_model(case.model, folder / "model")
    settings = {"dtype": "float32", "micro_batch_tokens": 2048, "batch_size": case.pairs} | case.settings
    config = Train(**settings)
    pairs = pairs_of(case.lengths, case.pairs, case.model["vocab_size"])
    predictor = Predictor(Setting(folder / "model", config, losses.choose(config), case.ranks, False), pairs)
    parts = data.micro_batches(data.deal(pairs, case.ranks)[0], config.micro_batch_tokens)
    return max(predictor.of_part(part, several=len(parts) > 1).total for part in parts)


def _free_port() -> int:
    """A port for the ranks of one case to meet at."""
    global _FREE_PORT
    import socket

    if not _FREE_PORT:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            _FREE_PORT = taken.getsockname()[1]
    return _FREE_PORT


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], Path(args.child[1]))))
        return
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, Path(folder))
            found["plan"] = planned(name, Path(folder))
        if args.json:
            print(json.dumps({"case": name} | found), flush=True)
            continue
        in_mib = {key: round(value / 2**20) for key, value in found.items()}
        print(LINE.format(case=name, off=found["plan"] / found["steps"] - 1, **in_mib), flush=True)


if __name__ == "__main__":
    main()
