"""A package is hidden while it says so, unless it is in use already, and comes back afterwards."""

import importlib.util
import json
import sys

import pytest

from schemas.forward.hiding import hidden


def test_a_package_is_not_there_for_a_while(tmp_path, monkeypatch):
    (tmp_path / "never_imported_before.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError), hidden("never_imported_before", "json"):
        assert importlib.util.find_spec("never_imported_before") is None
        assert sys.modules["json"] is json
        import never_imported_before
    import never_imported_before

    assert never_imported_before.value == 1
