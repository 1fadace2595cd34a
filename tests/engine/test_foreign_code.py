"""What is asked about of a recipe that may be somebody else's, and which code counts as generated."""

import sys
import types

import pytest

from engine.python_loading import strangers
from engine.trust import code_arguments
from schemas.digest import sha256_file


@pytest.mark.parametrize(
    ("value", "names_code"),
    [
        (2, False),
        (0.5, False),
        (True, False),
        ("fp8", False),
        ("mine.Worker", True),
        ("mine:Worker", True),
        ("/tmp/plugin", True),
        (["mine.Processor"], True),
        ({"kv_connector_module_path": "mine"}, True),
    ],
)
def test_an_argument_of_vllm_that_may_name_code_is_asked_about(value, names_code):
    assert code_arguments({"argument": value}) == (["argument"] if names_code else [])


def test_what_a_library_generates_is_no_module_of_the_user_s(tmp_path, monkeypatch):
    """`torch.compile` puts files of its own into a cache and runs them as modules below torch."""
    import torch  # noqa: F401

    file = tmp_path / "generated.py"
    file.write_text("")
    before = set(sys.modules)
    for name in ("torch.generated_42", "own_42"):
        module = types.ModuleType(name)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, module)
    assert strangers(before, {}) == [("own_42", file)]
    assert strangers(before, {"own_42": sha256_file(file)}) == []
    assert strangers(before, {"own_42": "0"}) == [("own_42", file)], "another file of the name was planned"
