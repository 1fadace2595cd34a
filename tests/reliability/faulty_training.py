"""Under torchrun: train with a store that fails at a given write of rank 0, or is refused it by the disk.

    torchrun --nproc-per-node 2 -m tests.reliability.faulty_training RUN RECIPE NUMBER WAY

WAY: `half` or `after`, as tests/faulty.py has them, which end the process; or an error's name, such as
ENOSPC. With NUMBER 0 nothing fails, and the writes are printed, a line each, after `write: `."""

import errno
import os
import sys
from pathlib import Path

from schemas.errors import exit_on_user_error
from schemas.recipe import load
from schemas.store import LocalStore
from tests.faulty import Fault, FaultyStore, Killed
from tests.reliability.training import Refusal
from trainer.train import train


def main() -> None:
    run, recipe, number, way = sys.argv[1:]
    if way.isupper():
        fault: Fault = Refusal(int(number), getattr(errno, way))
    else:
        fault = Fault(int(number), way)
    try:
        with exit_on_user_error("the last checkpoint is kept"):
            train(FaultyStore(LocalStore(Path(run)), fault), load(recipe))
    except Killed:
        os._exit(9)
    if os.environ["RANK"] == "0":
        for what in fault.writes:
            print(f"write: {what}")


if __name__ == "__main__":
    main()
