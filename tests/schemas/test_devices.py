"""What depends on the machine and on the dtype is decided in one place, and without loading torch."""

import subprocess
import sys

import pytest

from schemas import tolerance
from schemas.devices import batch_tokens, check_device, cores
from schemas.dtypes import of_training
from schemas.errors import UserError


def test_neither_module_loads_torch():
    code = "import sys, schemas.devices, schemas.tolerance; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_budget_is_the_wanted_one_or_the_devices():
    assert batch_tokens(77, "cpu") == batch_tokens(77, "cuda") == 77
    assert batch_tokens(0, "cpu") == 2048
    assert batch_tokens(0, "cuda") == 16384


def test_a_device_that_is_not_here_is_refused():
    for wanted in ("auto", "cpu"):
        check_device(wanted)
    with pytest.raises(UserError, match="expected auto, cpu, cuda"):
        check_device("gpu")
    with pytest.raises(UserError, match=r"cuda:99, but torch finds \d+ GPUs here"):
        check_device("cuda:99")
    assert cores() >= 1


def test_the_mean_gap_is_wide_only_where_the_arithmetic_differs():
    assert tolerance.mean_gap("float32", "vllm", "float32", "cuda") == 1e-3
    assert tolerance.mean_gap("bfloat16", "hf", "bfloat16", "cpu") == 1e-3
    assert tolerance.mean_gap("bfloat16", "hf", "bfloat16", "cuda") == 0.05
    assert tolerance.mean_gap("bfloat16", "vllm", "bfloat16", "cpu") == 0.05
    assert tolerance.mean_gap("float32", "hf", "bfloat16", "cpu") == 0.05
    assert tolerance.mean_gap("float16", "hf", "float32", "cpu") == 0.05


def test_auto_trains_in_the_dtype_of_the_cache_but_for_float16():
    assert [of_training("auto", cached) for cached in ("float32", "bfloat16", "float16")] == [
        "float32",
        "bfloat16",
        "float32",
    ]
    assert of_training("bfloat16", "float32") == "bfloat16"


def test_the_self_test_allows_half_precision_more():
    assert tolerance.largest_gap("float32") == 1e-3
    assert tolerance.largest_gap("bfloat16") == tolerance.largest_gap("float16") == 0.25
