"""The page on clusters: torchrun takes the options, and the script for Slurm trains."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from tests.conftest import ROOT
from tests.pages import blocks

_PAGE = ROOT / "pipelines" / "docs" / "clusters.md"
_BLOCKS = [block.text for block in blocks("bash", page=_PAGE)]

# Two tasks on this machine, as srun starts them. It ends with the first status that is not 0.
_SRUN = """#!/bin/bash
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" &
  tasks[$task]=$!
done
wait ${tasks[0]} && wait ${tasks[1]}
"""


def block(start, holds=""):
    """The one block of the page that starts so and holds this."""
    (found,) = [block for block in _BLOCKS if block.startswith(start) and holds in block]
    return found


def test_torchrun_takes_the_options():
    words = shlex.split(block("torchrun").replace("\\\n", ""))
    given = get_args_parser().parse_args(words[1:])
    assert given.nnodes == "4" and given.master_addr == "10.0.0.1" and given.shutdown_timeout == 300
    assert given.module and given.training_script == "trainer.cli"


@pytest.mark.long
def test_the_script_for_slurm_trains(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    tools = tmp_path / "tools"
    tools.mkdir()
    trainer = f'#!/bin/bash\nexec {sys.executable} -m trainer.cli "$@" --set train.max_steps=2\n'
    programs = {"srun": _SRUN, "scontrol": "#!/bin/bash\necho localhost\necho other\n", "trainer": trainer}
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = block("#!/bin/bash", holds="trainer run").replace("29500", port).replace("runs/hh", str(run))
    script = script.replace("pipelines/recipes/dpo.toml", str(run / "recipe.toml"))
    env = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    env |= {"SLURM_JOB_NODELIST": "localhost,other"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("step 0: loss 0.693147") == 1
    assert Path(next(run.glob("train-*/manifest.json"))).exists()
