"""One side of a work of `speed.py`, in a process of its own that takes a step whenever it is told to.

    python tests/bench/speed_sides.py WORK ours|trl|head FOLDER STEPS CORE

- `head` is TRL with its CPU head set to score response positions only, as its GPU path does.
- On its input, a line each: -1 to warm up, then a step's number. The first step warms up and is not timed;
  of a training its gradients are saved.
- Each answer is a line of JSON: the peak memory held; then the step's seconds, its real tokens (both rows of
  a pair, no padding), and of our own training the share of the processor's rate for matrix products.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from speed_turns import gpu_rate, leave, take
from speed_works import ALL_WORKS, Work, pairs_of


def ours(work: Work, folder: Path):
    """(step over a list of pairs, model)."""
    from trainer import dist

    ranks = dist.start(work.device, timeout=0)
    if work.training:
        from schemas.sections import Train
        from trainer import losses
        from trainer.opening import open_policy
        from trainer.step import Stepper

        config = Train(
            batch_size=work.pairs,
            dtype=work.dtype,
            gradient_checkpointing="false",
            options={"dpo": {"beta": 0.1}},
        )
        parallel = open_policy(folder, config, ranks)
        return Stepper(parallel, losses.choose(config), config, ranks).backward, parallel.policy.model
    from engine.models.hf import HF
    from engine.models.spec import ModelSpec, resolve
    from schemas.sections import Model

    spec = ModelSpec(Model(name=str(folder), dtype=work.dtype), "hf")
    backend = HF(resolve(spec), work.device)
    return lambda pairs: backend.logprobs(
        [pair.prompt_ids for pair in pairs], [(pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    ), backend._model


def theirs(work: Work, folder: Path, head: bool):
    """The same of TRL: its trainer's own collator, forward and loss."""
    import torch
    import trl
    import trl.trainer.utils
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if head:
        trl.trainer.utils._use_triton = lambda device: True
    lower = work.dtype == "bfloat16" and work.training
    config = trl.DPOConfig(
        output_dir=str(folder / "out"),
        beta=0.1,
        loss_type=["sigmoid"],
        per_device_train_batch_size=work.pairs // work.ranks,
        report_to=[],
        bf16=lower,
        gradient_checkpointing=False,
        use_cpu=work.device == "cpu",
        max_length=None,
        precompute_ref_log_probs=True,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32 if work.training else getattr(torch, work.dtype)
    )
    rows = load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "hf")
    )
    trainer = trl.DPOTrainer(
        model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(folder)
    )
    bare = trainer.model
    bare.train(work.training)
    # What Trainer.train does: mixed precision, and DistributedDataParallel where there are ranks.
    model = trainer.accelerator.prepare_model(bare) if work.training else bare
    rank = int(os.environ.get("RANK", 0))

    def step(pairs: list) -> None:
        inputs = trainer.data_collator([_trl_row(pair) for pair in pairs[rank :: work.ranks]])
        inputs = {key: value.to(work.device) for key, value in inputs.items()}
        if work.training:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs)
            loss.backward()
        else:
            trainer.compute_ref_log_probs(model, inputs)

    return step, bare


def _trl_row(pair) -> dict:
    """A pair as TRL's collator takes it."""
    return {
        "prompt_ids": pair.prompt_ids.tolist(),
        "chosen_ids": pair.chosen_ids.tolist(),
        "rejected_ids": pair.rejected_ids.tolist(),
        "ref_chosen_logps": float(pair.ref_chosen_token_logps.sum()),
        "ref_rejected_logps": float(pair.ref_rejected_token_logps.sum()),
    }


def operations(model, pairs: list) -> float:
    """Operations of the matrix products that a training step needs: forward once, backward twice.

    Attention's are included, each causal half once."""
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    body = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) - 2 * head
    head_size = config.hidden_size // config.num_attention_heads
    per_key = 2 * config.num_hidden_layers * config.num_attention_heads * head_size
    total = 0.0
    for pair in pairs:
        prompt = len(pair.prompt_ids)
        fed = prompt  # tokens that go through the layers
        keys = prompt**2 / 2  # that their queries see
        for response in (len(pair.chosen_ids) - 1, len(pair.rejected_ids) - 1):
            fed += response
            keys += response * prompt + response**2 / 2
        predicted = len(pair.chosen_ids) + len(pair.rejected_ids)
        total += body * fed + head * predicted + per_key * keys
    return 6 * total


def rate(shape: dict, seconds: float = 0.4) -> float:
    """Operations a second of this core in matrix products of the model's shapes, one after the other."""
    import torch

    sides = [
        (shape["hidden_size"], shape["hidden_size"]),
        (shape["hidden_size"], shape["intermediate_size"]),
        (shape["intermediate_size"], shape["hidden_size"]),
    ]
    factors = [(torch.randn(512, a), torch.randn(a, b)) for a, b in sides]
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for a, b in factors:
            a @ b
            done += 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return done / (time.perf_counter() - begun)


def peak_memory(device: str) -> int:
    """Bytes: of this process, or of the GPU's memory."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def pin(core: int) -> None:
    """All threads of this process on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


@dataclass(frozen=True)
class Worker:
    """A side with its model loaded: it warms up, and takes timed steps."""

    work: Work
    who: str
    folder: Path
    batches: list[list]
    step: Callable[[list], object]
    model: Any
    optimizer: Any  # none where log-probs are all that is computed

    @property
    def on_gpu(self) -> bool:
        return self.work.device != "cpu"

    @property
    def counts_operations(self) -> bool:
        """Only our own training says its share of the processor's rate."""
        return self.who == "ours" and self.work.training

    def warm_up(self) -> int:
        """Take a step on the largest batch, which makes the peak; its bytes."""
        import torch

        self.take()
        if self.optimizer:  # its states first, as in every later step: gradients of zero change no weight
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            self._update()
        self.step(max(self.batches, key=lambda batch: max(pair.tokens for pair in batch)))
        if self.work.training and not self.on_gpu and os.environ.get("RANK", "0") == "0":
            self._save_gradients()
        self._update()
        memory = peak_memory(self.work.device)
        # A gigabyte is taken and freed after it: no timed step waits for the system to hand out pages.
        torch.ones(0 if self.on_gpu else 1 << 28)
        self.leave()
        return memory

    def timed_step(self, number: int) -> dict[str, float]:
        """Seconds and tokens of a step; of our own training also the share."""
        batch = self.batches[number]
        self.take()
        if self.work.shares_gpu:  # the allocator has given its memory back: the first step takes it anew
            self.step(batch)
            self._update()
        measures_core = self.counts_operations and not self.on_gpu
        before = rate(self.work.model) if measures_core else 0
        self._wait()
        begun = time.perf_counter()
        self.step(batch)
        self._update()
        self._wait()
        seconds = time.perf_counter() - begun
        answer = {"seconds": seconds, "tokens": sum(pair.tokens + len(pair.prompt_ids) for pair in batch)}
        if self.counts_operations:
            best = (before + rate(self.work.model)) / 2 if measures_core else gpu_rate()
            answer["share"] = operations(self.model, batch) / self.work.ranks / seconds / best
        self.leave()
        return answer

    def take(self) -> None:
        """Before a turn."""
        if self.work.shares_gpu:
            take(self.model, self.optimizer, self.work.device)

    def leave(self) -> None:
        """After a turn."""
        if self.work.shares_gpu:
            leave(self.model, self.optimizer)

    def _update(self) -> None:
        if self.optimizer:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _wait(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()

    def _save_gradients(self) -> None:
        from safetensors.torch import save_file

        gradients = {key: parameter.grad.clone() for key, parameter in self.model.named_parameters()}
        save_file(gradients, self.folder / f"{self.who}.safetensors")


def new_worker(work: Work, who: str, folder: Path, steps: int) -> Worker:
    """A worker of a side, ready for so many steps."""
    import torch

    torch.set_num_threads(1)
    pairs = pairs_of(work.lengths, work.pairs * steps, work.model["vocab_size"])
    batches = [pairs[at : at + work.pairs] for at in range(0, len(pairs), work.pairs)]
    step, model = ours(work, folder) if who == "ours" else theirs(work, folder, who == "head")
    optimizer = None
    if work.training:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    return Worker(work, who, folder, batches, step, model, optimizer)


def serve(worker: Worker, core: int, answers: TextIO) -> None:
    """Say that the worker is ready, then answer each line of the input."""
    worker.leave()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        number = int(line)
        if number < 0:
            if not worker.on_gpu:
                pin(core)
            answer = {"memory": worker.warm_up()}
        else:
            answer = worker.timed_step(number)
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    name, who, folder, steps, core = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    work = ALL_WORKS[name]
    serve(new_worker(work, who, Path(folder), int(steps)), int(core), answers)


if __name__ == "__main__":
    main()
