"""A judge behind vLLM's own server gives the marks of the same model in process (tests/run -m real)."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from engine.models.spec import vllm_is_installed
from engine.stages import judge
from schemas.sections import Judge, Model
from tests.engine.planned import context
from tests.engine.test_endpoint import SANDBOX, check_equal, responses
from tests.engine.test_hf import open_hf

pytestmark = pytest.mark.real
START = 240  # seconds
KEY = "test-key-8f3a91c07d"
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of vLLM's OpenAI-compatible server with the sandbox's model behind it."""
    if not vllm_is_installed():
        pytest.skip("vLLM is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(SANDBOX)]
    line += ["--served-model-name", "sandbox", "--dtype", "float32", "--enforce-eager", "--api-key", KEY]
    line += ["--max-model-len", "512", "--max-num-seqs", "32", "--port", str(port), "--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(line, env=os.environ | ENVIRONMENT, stdout=out, stderr=out)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(START):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.mark.parametrize("suffix", ["", "_bare"])
@pytest.mark.parametrize("high", [5, 10])
def test_the_marks_are_those_of_the_model_in_process(server, monkeypatch, suffix, high):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    keys = {
        "kinds": ("rating", "pairwise"),
        "rating_prompt": f"judge_rating{suffix}",
        "pairwise_prompt": f"judge_pairwise{suffix}",
        "high": high,
    }
    model = open_hf(SANDBOX)
    table = responses(6)
    here = judge.make(table, Judge(**keys), context(Model(name=str(SANDBOX)), model=model))
    there_config = Judge(base_url=server, model="sandbox", **keys)
    there = judge.make(table, there_config, context(Model(name=str(SANDBOX))))
    check_equal(here.tables["scores"].to_pylist(), there.tables["scores"].to_pylist(), tolerance=1e-3)
    assert there.counts["scored"] == 12
