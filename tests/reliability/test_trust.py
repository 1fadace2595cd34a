"""Looking at a run folder that somebody else made runs nothing of it and asks nobody; `engine precompute`
with a recipe of somebody else's does so only when it is told to."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.commands.precompute import precompute
from engine.commands.status import status
from schemas.errors import UserError
from schemas.recipe import load, load_of_run
from schemas.store import open_store
from tests.conftest import ROOT, preferences
from tests.serving import Answered, serving

HONEST = """
[model]
name = "{folder}/model"
[prompts]
source = "{folder}/rows.jsonl"
format = "preference"
shards = 1
[given]
[logprobs]
[pairs]
test_share = 0.2
[train]
batch_size = 4
max_steps = 1
"""
EVIL = "{{ cycler.__init__.__globals__.os.system('touch %s') }}"
PYTHON = """
open({marker!r}, 'w')
def score(messages, response, reference=None):
    open({marker!r}, 'w')
    return 1.0
"""


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory, model_path):
    """A finished run of an honest recipe, and its files."""
    folder = tmp_path_factory.mktemp("honest")
    shutil.copytree(model_path, folder / "model")
    written(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in preferences(4, 12)))
    recipe = written(folder / "recipe.toml", HONEST.replace("{folder}", str(folder)))
    precompute(folder / "run", load(recipe), 1)
    return folder


@pytest.fixture
def world(honest, tmp_path, monkeypatch):
    """The run folder as it came from somebody else: its recipe is then made a hostile one."""
    shutil.copytree(honest / "run", tmp_path / "run")
    shutil.copytree(honest / "model", tmp_path / "model")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setenv("OPENAI_API_KEY", "test-key-4242")
    return tmp_path


def marker(world: Path) -> Path:
    return world / "marker"


def was_run(world: Path) -> bool:
    found = marker(world).exists()
    marker(world).unlink(missing_ok=True)
    return found


def evil_template(world: Path) -> str:
    return EVIL % marker(world)


def hostile_recipes(world: Path, url: str) -> dict[str, dict[str, dict[str, object]]]:
    """Name -> sections with what they say; obeyed, each would leave a marker or ask the server."""
    python = PYTHON.format(marker=str(marker(world)))
    own = written(world / "evil.py", python)
    written(world / "lib/evilpkg/__init__.py", python)
    written(world / "lib/evilpkg/inner/__init__.py", python)
    written(world / "lib/evilpkg/inner/mine.py", python)
    written(
        world / "lib/fine.py", "import evilpkg.inner.mine\ndef score(messages, response):\n    return 1\n"
    )
    prompt = written(
        world / "evil.txt",
        evil_template(world) + "{{ response }}{{ conversation }}{{ chosen }}{{ rejected }}",
    )
    chat = written(world / "evil.jinja", evil_template(world) + "{{ messages[0].content }}")
    server = {"base_url": url, "model": "there"}
    return {
        "a Python file": {"check": {"function": f"{own}:score"}},
        "a module": {"check": {"function": "evilpkg:score"}},
        "a module of a package": {"check": {"function": "evilpkg.inner.mine:score"}},
        "an import of a module": {"check": {"function": "fine:score"}},
        "a judge's prompt": {"judge": {"rating_prompt": str(prompt)}},
        "a judge's rubric": {"judge": {"rubric": str(prompt)}},
        "a rewriter's prompt": {"rewrite": {"prompt": str(prompt), "scorer": "given"}},
        "a quality prompt": {"logprobs": {"quality_prompt": str(prompt)}},
        "a chat template": {"model": {"chat_template": str(chat)}},
        "a server": {"judge": server},
        "a server for rewrites": {"rewrite": {**server, "scorer": "given"}},
        "a model of the Hub": {"model": {"name": "acme/tiny"}},
        "a data set of the Hub": {"prompts": {"source": ["acme/rows"]}},
    }


def put_recipe(world: Path, honest: Path, sections: dict[str, dict[str, object]]) -> None:
    """The run's recipe with these keys over its own, a new section right behind [given]."""
    import tomllib

    import tomli_w

    tree = tomllib.loads(HONEST.replace("{folder}", str(honest)))
    ordered: dict[str, dict[str, object]] = {}
    for name, body in tree.items():
        ordered[name] = body | sections.get(name, {})
        if name == "given":
            ordered |= {name: body for name, body in sections.items() if name not in tree}
    (world / "run" / "recipe.toml").write_text(tomli_w.dumps(ordered))


@pytest.fixture
def connections(monkeypatch):
    """Where anything connected to; nothing gets through."""
    tried: list[object] = []

    def refuse(_self, address):
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr("socket.getaddrinfo", lambda *words, **_more: refuse(None, words))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tried


def looks_of(run: Path):
    """All that only looks, in this process."""
    from engine import verify
    from engine.export.card import card_of
    from engine.init import model_look
    from engine.report.build import build
    from engine.story.gather import story_of
    from engine.story.tokens import Tokens
    from engine.views import views
    from trainer.job import plan as plan_training

    store = open_store(run)

    def shown():
        story_of(store, None, None)
        Tokens.of(store)

    def few():
        return load_of_run(store, ["verify.sample=2"])

    def tolerant(look):
        try:
            look()
        except UserError:
            return  # what it says is another test's; here it is that nothing runs

    yield "engine status", lambda: tolerant(lambda: status(store, load_of_run(store)))
    yield "engine verify", lambda: tolerant(lambda: verify.check(store, few(), False, print))
    yield "engine sql", lambda: tolerant(lambda: views(store))
    yield "engine show", lambda: tolerant(shown)
    yield "engine report", lambda: tolerant(lambda: build(store, [], 10))
    yield "engine export", lambda: tolerant(lambda: card_of(store, "jsonl", {}))
    yield "engine init", lambda: tolerant(lambda: model_look.look_at(str(run.parent / "model")))
    yield "trainer run, its plan", lambda: tolerant(lambda: plan_training(store, load_of_run(store)))


def test_looking_at_a_foreign_run_folder_runs_nothing_and_asks_nobody(honest, world, connections, trials):
    with trials("a hostile run folder looked at") as trial:
        for name, sections in hostile_recipes(world, "http://127.0.0.1:9/v1").items():
            put_recipe(world, honest, sections)
            for command, look in looks_of(world / "run"):
                with trial(f"{name}, {command}"):
                    look()
                    assert not was_run(world), "it was run"
                    hub = "trainer" in command and "Hub" in name  # training needs the model
                    assert hub or not connections, f"it asked {connections}"
                    assert "evilpkg" not in sys.modules and "fine" not in sys.modules
                    connections.clear()


def test_a_model_that_brings_a_hostile_template_runs_nothing(honest, world, connections, trials):
    own = world / "model"
    (own / "chat_template.jinja").write_text(evil_template(world) + "{{ messages[0].content }}")
    config = json.loads((own / "config.json").read_text())
    written(own / "evil.py", PYTHON.format(marker=str(marker(world))))
    auto = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.T", None],
    }
    with trials("a hostile model looked at") as trial:
        for name, more in {"a template": {}, "code of its own": {"auto_map": auto}}.items():
            (own / "config.json").write_text(json.dumps(config | more))
            put_recipe(world, honest, {"model": {"name": str(own)}})
            for command, look in looks_of(world / "run"):
                with trial(f"{name}, {command}"):
                    look()
                    assert not was_run(world) and not connections


CHECKED = """
[prompts]
source = "{folder}/rows.jsonl"
format = "preference"
shards = 1
[given]
[check]
function = "{world}/evil.py:score"
"""


@pytest.fixture
def checked(honest, world):
    """A recipe whose check leaves a marker when it is run."""
    written(world / "evil.py", PYTHON.format(marker=str(marker(world))))
    text = CHECKED.replace("{folder}", str(honest)).replace("{world}", str(world))
    return written(world / "mine" / "recipe.toml", text)


def foreign_ways(world: Path, recipe: Path):
    """Ways in which a recipe is not the user's own -> its path there."""

    def in_a_run_folder():
        return shutil.copy(recipe, world / "run" / "recipe.toml")

    def under_another_name():
        return shutil.copy(recipe, world / "run" / "mine.toml")

    def in_a_train_folder():
        written(world / "run" / "train-0" / "facts.json", "{}")
        return shutil.copy(recipe, world / "run" / "train-0" / "recipe.toml")

    def behind_a_link():
        shutil.copy(recipe, world / "run" / "recipe.toml")
        link = world / "link.toml"
        link.symlink_to(world / "run" / "recipe.toml")
        return link

    def writable_by_all():
        path = Path(shutil.copy(recipe, world / "open.toml"))
        path.chmod(0o666)
        return path

    def in_an_open_folder():
        (world / "open").mkdir()
        path = shutil.copy(recipe, world / "open" / "recipe.toml")
        (world / "open").chmod(0o777)
        return path

    return (
        in_a_run_folder,
        under_another_name,
        in_a_train_folder,
        behind_a_link,
        writable_by_all,
        in_an_open_folder,
    )


def test_a_foreign_recipe_runs_its_python_only_with_trust(world, checked, capsys, trials):
    """And what the refusal says to do works."""
    with trials("a recipe that may be somebody else's") as trial:
        for number, way in enumerate(foreign_ways(world, checked)):
            with trial(way.__name__):
                recipe = load(way())
                out = world / f"out{number}"
                said = r"somebody else's .* run Python of .*evil\.py:score \(\[check\]\).* --trust"
                with pytest.raises(UserError, match=said):
                    precompute(out, recipe, 1)
                assert not was_run(world)
                precompute(out, recipe, 1, trust=True)
                assert was_run(world), "with --trust it is run"
                precompute(out, recipe, 1)  # nothing is left to run
                assert not was_run(world)
                capsys.readouterr()


def test_the_user_s_own_recipe_says_what_it_runs(world, checked, capsys):
    precompute(world / "out", load(checked), 1)
    assert was_run(world)
    assert f"check: runs Python of {world}/evil.py:score" in capsys.readouterr().out


def test_what_was_typed_is_the_user_s_own(world, checked):
    foreign = world / "run" / "recipe.toml"
    shutil.copy(checked, foreign)
    precompute(world / "out", load(foreign, [f"check.function={world}/evil.py:score"]), 1)
    assert was_run(world)


SERVED = """
[prompts]
source = "{folder}/rows.jsonl"
format = "preference"
shards = 1
[given]
[judge]
base_url = "{url}"
model = "there"
retries = 0
"""


def test_a_foreign_recipe_sends_rows_and_key_only_with_trust(honest, world, trials):
    pytest.importorskip("openai")
    with serving(lambda _asked, _number: Answered(401, {"error": {"message": "no"}})) as server:
        text = SERVED.replace("{folder}", str(honest)).replace("{url}", server.base_url)
        recipe = load(written(world / "run" / "recipe.toml", text))
        with trials("a server that a foreign recipe names") as trial:
            with trial("refused"):
                said = r"send rows of the run and the key in OPENAI_API_KEY to http://127"
                with pytest.raises(UserError, match=said) as refused:
                    precompute(world / "out", recipe, 1)
                assert not server.asked and "test-key" not in str(refused.value)
            with trial("with --trust"):
                with pytest.raises(UserError, match=r"401|refuse"):
                    precompute(world / "out", recipe, 1, trust=True)
                assert server.asked


DYNAMIC = {
    "at the import": "import importlib\nplug = importlib.import_module('plug' + 'in')\n",
    "at a call": "import importlib\n",
}


def test_a_module_that_only_a_run_shows_is_refused_and_the_remedy_works(honest, world, trials):
    """Its scores would be filed under a name that does not know it."""
    text = CHECKED.replace("{folder}", str(honest)).replace("{world}", str(world))
    recipe_file = written(world / "mine" / "recipe.toml", text)
    written(world / "lib" / "plugin.py", "def size(text):\n    return len(text)\n")
    with trials("a module loaded in a way that only a run shows") as trial:
        for name, head in DYNAMIC.items():
            with trial(name):
                sys.modules.pop("plugin", None)
                body = "    plug = importlib.import_module('plug' + 'in')\n    return plug.size(response)\n"
                code = f"{head}def score(messages, response):\n{body}"
                written(world / "evil.py", code)
                with pytest.raises(UserError, match=r"it loads plugin .*write `import plugin`"):
                    precompute(world / "out", load(recipe_file), 1)
                assert not list((world / "out").glob("check-*/00000.json"))
                sys.modules.pop("plugin", None)
                written(world / "evil.py", f"if False:\n    import plugin\n{code}")
                precompute(world / "out", load(recipe_file), 1)
                assert list((world / "out").glob("check-*/00000.json"))
                shutil.rmtree(world / "out")


def hostile_commands(world: Path) -> list[list[str]]:
    run = str(world / "run")
    return [
        ["engine", "status", run],
        ["engine", "status", run, "--recipe", f"{run}/recipe.toml"],
        ["engine", "verify", "--trainer-alone", run],
        ["engine", "sql", run, "select count(*) from prompts"],
        ["trainer", "run", f"{run}/recipe.toml", "-o", run],
        ["trainer", "eval", run],
        ["trainer", "compare", run],
    ]


@pytest.mark.long
def test_the_commands_themselves_run_nothing_of_a_foreign_folder(honest, world, trials):
    """As a user gives them, from within the folder."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{world}/lib", "OPENAI_API_KEY": "test-key-4242"}
    environment["HF_HUB_OFFLINE"] = "1"
    with serving(lambda _asked, _number: Answered(500)) as server:
        recipes = hostile_recipes(world, server.base_url)
        with trials("a hostile run folder, by the commands") as trial:
            for name in ("a module of a package", "a judge's prompt", "a server"):
                put_recipe(world, honest, recipes[name])
                for words in hostile_commands(world):
                    with trial(f"{name}: {' '.join(words[:2])}"):
                        done = subprocess.run(
                            [sys.executable, "-m", f"{words[0]}.cli", *words[1:]],
                            cwd=world / "run",
                            env=environment,
                            capture_output=True,
                            text=True,
                            timeout=300,
                        )
                        assert "Traceback" not in done.stderr, done.stderr
                        assert not was_run(world) and not server.asked
