"""The folders that a file of the user's puts on Python's path, and what it loads unseen, by its text."""

import ast
from pathlib import Path

import pytest

from engine.python_paths import added_folders, unseen_loads

FILE = Path("/home/ada/checks/score.py")


@pytest.mark.parametrize(
    ("text", "before", "behind"),
    [
        ("sys.path.insert(0, 'lib')", ["lib"], []),
        ("sys.path.append('lib')", [], ["lib"]),
        ("sys.path.insert(0, 'a'); sys.path.insert(0, 'b')", ["b", "a"], []),
        ("sys.path.insert(0, str(Path(__file__).parent / 'lib'))", ["/home/ada/checks/lib"], []),
        ("sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))", ["/home/ada"], []),
        ("HERE = Path(__file__).parent\nsys.path.insert(0, str(HERE / 'lib'))", ["/home/ada/checks/lib"], []),
        ("sys.path.append(os.path.dirname(os.path.abspath(__file__)))", [], ["/home/ada/checks"]),
        ("sys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))", [], ["/home/ada/checks/lib"]),
        ("sys.path.insert(0, os.environ['LIB'])", [], []),
        ("X = X\nsys.path.insert(0, X)", [], []),
        ("sys.path.insert(0, Path(__file__).parents[99])", [], []),
        ("other.path.insert(0, 'lib')", [], []),
    ],
)
def test_a_folder_is_seen_where_its_name_is_written_out(text, before, behind):
    assert added_folders(ast.parse(text), FILE) == (before, behind)


def test_what_loads_code_without_an_import_is_seen():
    text = (
        "spec = importlib.util.spec_from_file_location('x', 'x.py')\n"
        "exec(open('x.py').read())\n"
        "exec(compile(Path('x.py').read_text(), 'x', 'exec'))\n"
        "runpy.run_path('x.py')\n"
        "exec('1')\nopen('rows')\nmodel.run()\n"
    )
    assert [load.split()[0] for load in unseen_loads(ast.parse(text))] == [
        "spec_from_file_location",
        "exec",
        "exec",
        "run_path",
    ]
