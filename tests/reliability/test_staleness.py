"""No folder is stale: all that its rows depend on is in its name, for every key and every file."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.commands.precompute import precompute
from engine.plan import check_unchanged, plan
from schemas import digest
from schemas.digest import cache_folder, content_digest, is_remembered, sha256_file
from schemas.errors import UserError
from schemas.identity import check_unchanged as check_model_unchanged
from schemas.identity import identify
from schemas.recipe import load
from schemas.sections import SECTIONS, Model
from schemas.store import open_store
from tests.conftest import ROOT, preferences
from tests.engine.rewards import on_trunk
from tests.reliability.keys import KEYS, Idle, Refused, filled, setting_of
from tests.schemas.models import copy_of

RECIPE = """
seed = 1
[model]
name = "{model}"
[prompts]
source = "{folder}/rows.jsonl"
shards = 2
format = "preference"
[given]
[generate]
max_tokens = 9
[check]
function = "{folder}/own.py:score"
[judge]
min_mass = 0.0
[reward]
model = "{reward}"
[rewrite]
max_tokens = 9
[logprobs]
contexts = ["plain", "quality"]
[prompt_gain]
[pairs]
test_share = 0.1
choose = "best_vs_worst"
[verify]
[rounds]
[train]
"""
OWN = """
import helper
from tools import counts

def score(messages, response):
    return helper.size(response)

def other(messages, response):
    from tools.deep import rare
    return rare.size(response)
"""
DATED = "{{ strftime_now('%d') }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
OWN_TEMPLATE = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


SETTLED = 0.1  # seconds after which a file is old enough to be remembered, in these tests


@pytest.fixture(scope="module", autouse=True)
def _settle_soon():
    """A tenth of a second is many ticks of the kernel's clock, as two seconds are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_RACY_NANOSECONDS", SETTLED / 2 * 1e9)
        yield


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows_of(count: int) -> str:
    lines = []
    for number, row in enumerate(preferences(4, count)):
        more = {"note": f"Note {number}", "part": "train"}
        lines.append(json.dumps(row | more) + "\n")
    return "".join(lines)


def turns_of(count: int) -> str:
    lines = []
    for row in preferences(4, count):
        asked = [{"role": "user", "who": "user", "text": row["prompt"]}]
        answered = {"role": "assistant", "who": "assistant"}
        sides = {side: [*asked, answered | {"text": row[side]}] for side in ("chosen", "rejected")}
        lines.append(json.dumps(sides) + "\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def world(tmp_path_factory, model_path, other_model):
    """A recipe with every section, its files and its models, old enough to be remembered."""
    folder = tmp_path_factory.mktemp("stale")
    write(folder / "rows.jsonl", rows_of(8))
    write(folder / "other.jsonl", rows_of(9))
    write(folder / "turns.jsonl", turns_of(8))
    for name in ("train", "test"):
        write(folder / "splits" / f"{name}.jsonl", rows_of(8))
    write(folder / "own.jinja", OWN_TEMPLATE)
    write(folder / "dated.jinja", DATED)
    write(folder / "rubric.txt", "Be short.")
    write(folder / "rated.txt", (ROOT / "pipelines/prompts/judge_rating.txt").read_text() + "{{ rubric }}")
    for name, shipped in {"quality.txt": "prompts/quality.txt", "own.sql": "sql/preference.sql"}.items():
        write(folder / name, (ROOT / "pipelines" / shipped).read_text() + "\n")
    write(folder / "quality.txt", (ROOT / "pipelines/prompts/quality.txt").read_text() + "Well.")
    for name, shipped in SHIPPED.items():
        write(folder / name, (ROOT / "pipelines" / shipped).read_text())
    write(folder / "own.py", OWN)
    for name in ("helper.py", "tools/__init__.py", "tools/counts.py", "tools/deep/__init__.py"):
        write(folder / name, "def size(text):\n    return len(text) % 7\n")
    write(folder / "tools/deep/rare.py", "from . import size\nfrom .. import counts\n")
    places = {"folder": folder, "model": copy_of(model_path, folder / "model"), "other": other_model}
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (model_path / file).exists() and not (other_model / file).exists():
            shutil.copy(model_path / file, other_model / file)
    write(folder / "model" / "generation_config.json", '{"eos_token_id": 2}')
    places["bare"] = copy_of(model_path, folder / "bare")
    (folder / "bare" / "chat_template.jinja").unlink()
    places["reward"] = on_trunk(model_path, folder / "reward")
    places["other_reward"] = on_trunk(model_path, folder / "other_reward", seed=5)
    places["labelled"] = on_trunk(model_path, folder / "labelled", labels=2)
    write(folder / "recipe.toml", filled(RECIPE, places))
    time.sleep(SETTLED)
    folders(places)
    return places


@pytest.fixture(autouse=True)
def _with_vllm(monkeypatch):
    """A plan with vLLM starts none, so it need not be installed."""
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: True)


@pytest.fixture(autouse=True)
def _recognise_once(monkeypatch):
    """What format the same bytes have is the same, and takes most of a plan's time to find out."""
    from engine.stages import prompts

    known = {}
    recognise = prompts.format_of

    def remembered(files, config, of_test_source):
        paths = [*files.values(), *map(Path, filter(os.path.isfile, [config.format]))]
        key = (repr(config), repr(of_test_source), *map(sha256_file, paths))
        if key not in known:
            known[key] = recognise(files, config, of_test_source)
        return known[key]

    monkeypatch.setattr(prompts, "format_of", remembered)


def recipe_of(world, *settings):
    without = [name.removeprefix("without ") for name in settings if name.startswith("without ")]
    kept = [filled(setting, world) for setting in settings if not setting.startswith("without ")]
    recipe = load(world["folder"] / "recipe.toml", kept)
    sections = {name: config for name, config in recipe.sections.items() if name not in without}
    return dataclasses.replace(recipe, sections=sections)


def folders(world, *settings) -> dict[str, str]:
    run = plan(world["folder"] / "run", recipe_of(world, *settings))
    return {stage: planned.folder for stage, planned in run.planned.items()}


def keys_of(section: str) -> list[str]:
    return [field.name for field in dataclasses.fields(SECTIONS[section])]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_every_section_has_an_entry(section):
    assert sorted(keys_of(section)) == sorted(KEYS[section])


def test_a_key_makes_another_folder_or_is_listed_with_its_reason(world, trials):
    """The folder of the section's own stage; of [model], one at least of the stages that open it."""
    with trials("a key of the recipe changed") as trial:
        with trial("seed"):
            assert folders(world, "seed=2") != folders(world)
        for section in [name for name in SECTIONS if name != "train"]:
            for key, entry in KEYS[section].items():
                with trial(f"{section}.{key}"):
                    one_key(world, section, key, entry)


def one_key(world, section, key, entry):
    setting = setting_of(section, key, entry.value, world)
    if isinstance(entry, Refused):
        with pytest.raises(UserError):
            recipe_of(world, setting)
        return
    before = folders(world, *entry.given)
    # A table is set by its keys; the last word on a key counts.
    after = folders(world, *entry.given, setting)
    if isinstance(entry, Idle):
        assert entry.why and after == before
    elif section == "model":
        assert after != before
    else:
        assert after[section] != before[section]


FILES = {
    "rows.jsonl": ("shells", "stones"),
    "own.py": ("size(response)", "size(messages)"),
    "helper.py": ("% 7", "% 5"),
    "tools/__init__.py": ("% 7", "% 5"),
    "tools/counts.py": ("% 7", "% 5"),
    "tools/deep/__init__.py": ("% 7", "% 5"),
    "tools/deep/rare.py": ("size", "siZe"),
    "own.jinja": ("[", "("),
    "rubric.txt": ("short", "brief"),
    "rated.txt": ("a", "e"),
    "own.sql": ("--", "-- "),
    "quality.txt": ("Well", "Good"),
    "other.jsonl": ("a", "e"),
    "choose.sql": ("--", "-- "),
    "baseline.sql": ("--", "-- "),
    "pairwise.txt": ("a", "e"),
    "rewrite.txt": ("a", "e"),
}
MODEL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "model.safetensors",
)
USED = (
    'prompts.format="{folder}/own.sql"',
    'prompts.test_source=["{folder}/other.jsonl"]',
    'judge.kinds=["rating", "pairwise"]',
    'judge.rating_prompt="{folder}/rated.txt"',
    'judge.pairwise_prompt="{folder}/pairwise.txt"',
    'judge.rubric="{folder}/rubric.txt"',
    'judge.model="{other}"',
    'reward.chat_template="{folder}/own.jinja"',
    'rewrite.prompt="{folder}/rewrite.txt"',
    'rewrite.choose="{folder}/choose.sql"',
    'logprobs.quality_prompt="{folder}/quality.txt"',
    'pairs.choose="{folder}/choose.sql"',
    'pairs.baseline="{folder}/baseline.sql"',
)
SHIPPED = {
    "choose.sql": "sql/best_vs_worst.sql",
    "baseline.sql": "sql/sample.sql",
    "pairwise.txt": "prompts/judge_pairwise.txt",
    "rewrite.txt": "prompts/rewrite_instruction.txt",
}


def overwrite(path: Path, content: bytes) -> None:
    """As `rsync -t --inplace` does: the same inode, the old time."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def changed_content(path: Path) -> bytes:
    """Other content of the same length, of the same form."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    if path.name == "generation_config.json":
        return content.replace(b'"eos_token_id": 2', b'"eos_token_id": 3')
    if path.name == "config.json":
        return content.replace(b"1e-06", b"1e-05").replace(b'"rms_norm_eps": 1e-5', b'"rms_norm_eps": 1e-6')
    if path.name == "tokenizer.json":
        return (
            content.replace(b'"unk"', b'"unK"', 1) if b'"unk"' in content else content.replace(b"0", b"1", 1)
        )
    if path.name == "tokenizer_config.json":
        return content.replace(b'"model_max_length": 1', b'"model_max_length": 2', 1)
    if path.name == "chat_template.jinja":
        return content.replace(b"content", b"Content", 1)
    (name,) = [name for name in FILES if str(path).endswith(f"/{name}")][:1]
    old, new = FILES[name]
    return content.replace(old.encode(), new.encode(), 1)


def test_one_changed_file_makes_another_folder_and_changed_back_the_old_one(world, trials):
    """Each file that the recipe uses, in place and with its old time: a letter, a digit or a bit of it."""
    folder = world["folder"]
    assert is_remembered(folder / "model" / "model.safetensors"), "the memory is at work"
    files = [folder / name for name in FILES]
    for model in ("model", "reward"):
        files += [folder / model / name for name in MODEL_FILES if (folder / model / name).exists()]
    plain = folders(world)
    before = folders(world, *USED)
    with trials("a file changed in place, its size and time kept") as trial:
        for path in files:
            content = path.read_bytes()
            changed = changed_content(path)
            with trial(path.relative_to(folder)):
                assert changed != content, "the test changes nothing"
                overwrite(path, changed)
                try:
                    # A template that the recipe replaces is none; so both recipes are asked.
                    assert folders(world, *USED) != before or folders(world) != plain
                finally:
                    overwrite(path, content)
                assert folders(world, *USED) == before


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 100)
    time.sleep(SETTLED)
    content_digest(path)
    assert is_remembered(path)
    return path


def replaced(path):
    other = path.with_name("other")
    other.write_bytes(b"b" * 100)
    shutil.copystat(path, other)
    os.replace(other, path)


def by_hard_link(path):
    link = path.with_name("link")
    os.link(path, link)
    overwrite(link, b"b" * 100)


def restored(path):
    """`cp -p` of a backup with the same size and time."""
    backup = path.with_name("backup")
    backup.write_bytes(b"b" * 100)
    shutil.copystat(path, backup)
    shutil.copyfile(backup, path)
    shutil.copystat(backup, path)


def by_map(path):
    import mmap

    before = path.stat()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:] = b"b" * 100
        view.flush()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


WAYS = {
    "in place, the time set back": lambda path: overwrite(path, b"b" * 100),
    "replaced by a file of the same size and time": replaced,
    "through a hard link": by_hard_link,
    "a backup restored": restored,
    "through a memory map": by_map,
}


def test_a_changed_file_is_known_by_its_content_however_it_was_changed(weights, trials):
    before = content_digest(weights)
    with trials("a digest remembered, the file then changed behind it") as trial:
        for name, change in WAYS.items():
            with trial(name):
                change(weights)
                assert content_digest(weights) == sha256_file(weights) != before
                overwrite(weights, b"a" * 100)
                assert content_digest(weights) == before
        with trial("the clock set back"):
            overwrite(weights, b"b" * 100)
            content_digest(weights)
            with pytest.MonkeyPatch.context() as patch:
                an_hour_ago = time.time_ns() - 3600 * 10**9
                patch.setattr(time, "time", lambda: an_hour_ago / 1e9)
                patch.setattr(time, "time_ns", lambda: an_hour_ago)
                assert not is_remembered(weights)
                overwrite(weights, b"c" * 100)
                assert content_digest(weights) == sha256_file(weights)
                overwrite(weights, b"d" * 100)
                assert content_digest(weights) == sha256_file(weights)


def test_a_damaged_memory_never_gives_another_digest(weights, trials):
    name = hashlib.sha256(f"{weights}\0{weights.stat().st_dev}".encode()).hexdigest()
    memory = cache_folder() / "digests" / name
    whole = memory.read_bytes()
    true = sha256_file(weights)
    with trials("a remembered digest with one bit flipped, or cut off") as trial:
        for bit in range(8 * len(whole)):
            with trial(f"bit {bit}"):
                flipped = bytearray(whole)
                flipped[bit // 8] ^= 1 << bit % 8
                memory.write_bytes(flipped)
                assert content_digest(weights) == true
                assert memory.read_bytes() == whole, "written anew"
        for length in range(len(whole)):
            with trial(f"cut at {length}"):
                memory.write_bytes(whole[:length])
                assert content_digest(weights) == true


MODEL_RECIPE = """
[model]
name = "{model}"
[prompts]
source = "{folder}/rows.jsonl"
shards = 2
format = "preference"
[given]
[logprobs]
contexts = ["plain", "quality"]
quality_prompt = "{folder}/quality.txt"
[pairs]
test_share = 0.1
[train]
batch_size = 4
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory, model_path):
    """A finished run with a model of its own, a while ago."""
    folder = tmp_path_factory.mktemp("scored")
    places = {"folder": folder, "model": copy_of(model_path, folder / "model")}
    write(folder / "rows.jsonl", rows_of(8))
    write(folder / "quality.txt", "Answer well.")
    write(folder / "recipe.toml", filled(MODEL_RECIPE, places))
    time.sleep(SETTLED)
    precompute(folder / "run", load(folder / "recipe.toml"), 1)
    return places


def test_other_weights_under_the_old_size_and_time_are_never_nothing_to_do(scored, capsys, trials):
    """And a model that changes between plan and work is noticed: its numbers would get the old name."""
    folder = scored["folder"]
    file = folder / "model" / "model.safetensors"
    content = file.read_bytes()
    recipe = load(folder / "recipe.toml")
    with trials("weights overwritten in place, size and time kept") as trial:
        with trial("precompute again"):
            overwrite(file, changed_content(file))
            precompute(folder / "run", recipe, 1)
            assert "nothing to do" not in capsys.readouterr().out
            overwrite(file, content)
            precompute(folder / "run", recipe, 1)
            assert "nothing to do" in capsys.readouterr().out
        with trial("while it is loaded"):
            model = Model(name=str(folder / "model"))
            planned = identify(model).facts()
            overwrite(file, changed_content(file))
            try:
                with pytest.raises(UserError, match=r"weights of the model in .* changed while"):
                    check_model_unchanged(model, planned)
            finally:
                overwrite(file, content)


def test_a_prompt_that_changes_while_shards_are_made_is_noticed(scored, trials):
    """Also where it was read before in this process; a worker reads it for the first time."""
    folder = scored["folder"]
    run = plan(folder / "run", load(folder / "recipe.toml"))
    (stage,) = [stage for stage in run.stages if stage.name == "logprobs"]
    with trials("a prompt changed while shards are made") as trial, trial("the quality prompt"):
        check_unchanged(run, [stage])
        overwrite(folder / "quality.txt", b"Answer I'll.")
        try:
            with pytest.raises(UserError, match=r"\[logprobs\] changed while the run was going: contexts"):
                check_unchanged(run, [stage])
        finally:
            overwrite(folder / "quality.txt", b"Answer well.")
        check_unchanged(run, [stage])


def test_other_versions_than_those_that_made_a_folder_are_named(scored, tmp_path, capsys, trials):
    """They make no other folder: `engine verify` says whether they matter."""
    from engine import verify
    from engine.commands.status import status
    from schemas import versions
    from trainer.job import plan as plan_training
    from trainer.job import version_remarks

    run = Path(shutil.copytree(scored["folder"] / "run", tmp_path / "run"))
    store = open_store(run)
    recipe = load(scored["folder"] / "recipe.toml", ["verify.sample=2"])
    folder = run / plan(store, recipe).planned["logprobs"].folder
    here = versions.here(["torch"])["torch"]
    assert versions.read(open_store(folder))["torch"] == [here]
    assert not list(run.glob("pairs-*/made_with.json")), "a stage that opens no model has no record"
    versions.note(open_store(folder), {"torch": "1.0"}, goes_on=False)
    named = f"torch 1.0 (here {here})"
    with trials("a folder that other versions made") as trial:
        with trial("engine status"):
            status(store, recipe)
            assert named in capsys.readouterr().out
        with trial("trainer run"):
            assert any(named in line for line in version_remarks(plan_training(store, recipe)))
        with trial("engine verify"):
            verify.check(store, recipe, False, print)
            assert named in capsys.readouterr().out
            record = json.loads((run / "verify.json").read_text())
            assert record["made_with"]["torch"] == ["1.0"] and record["verified_with"]["torch"] == here
        with trial("engine precompute goes on"):
            for name in ("manifest.json", "00001.json"):
                (folder / name).unlink()
            precompute(run, recipe, 1)
            said = capsys.readouterr().out
            assert named in said and "`engine verify" in said
            assert versions.read(open_store(folder))["torch"] == sorted(["1.0", here])


def test_a_key_of_train_makes_another_folder_or_is_listed_with_its_reason(scored, trials):
    from trainer.job import plan as plan_training

    store = open_store(scored["folder"] / "run")

    def folder(*settings):
        return plan_training(store, load(scored["folder"] / "recipe.toml", settings)).folder.name

    with trials("a key of [train] changed") as trial:
        with trial("seed"):
            assert folder("seed=2") != folder()
        for key, entry in KEYS["train"].items():
            with trial(key):
                given = entry.given
                after = folder(*given, setting_of("train", key, entry.value, scored))
                assert (after == folder(*given)) == isinstance(entry, Idle)


# What a check file may import, and how: the files beside it, and the one whose change must be seen.
IMPORTS = {
    "import helper": ("import helper", "helper.size(response)", "helper.py"),
    "import a.b": ("import tools.counts", "tools.counts.size(response)", "tools/counts.py"),
    "from a import b": ("from tools import counts", "counts.size(response)", "tools/counts.py"),
    "in a function": ("", "__import__('helper').size(response)", "helper.py"),
    "by its name": (
        "import importlib\nhelper = importlib.import_module('helper')",
        "helper.size(response)",
        "helper.py",
    ),
    "a package": ("import tools", "tools.size(response)", "tools/__init__.py"),
    "of an import": ("import middle", "middle.size(response)", "helper.py"),
    "relative, of an import": (
        "import tools.deep.rare as rare",
        "rare.size(response)",
        "tools/deep/__init__.py",
    ),
    "sys.path": (
        "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\nimport beside",
        "beside.size(response)",
        "beside.py",
    ),
}
CHECK_RECIPE = """
[prompts]
source = "{folder}/rows.jsonl"
shards = 1
format = "preference"
[given]
[check]
function = "{folder}/{check}.py:score"
"""


def scores_of(run: Path, since: set[Path]) -> list[float]:
    (made,) = set(run.glob("check-*")) - since
    return pq.read_table(made / "00000.scores.parquet")["score"].to_pylist()


def test_a_changed_import_of_the_check_file_makes_other_scores(tmp_path, monkeypatch, trials):
    """Its size and time kept, so that a `.pyc` of the old file would be taken for the new one's."""
    write(tmp_path / "rows.jsonl", rows_of(6))
    lib = tmp_path / "lib"
    monkeypatch.syspath_prepend(str(lib))
    with trials("an import of the check file changed, its size and time kept") as trial:
        for number, (name, (head, body, file)) in enumerate(IMPORTS.items()):
            with trial(name):
                shutil.rmtree(lib, ignore_errors=True)
                for module in ("helper", "tools/__init__", "tools/counts", "tools/deep/__init__"):
                    write(lib / f"{module}.py", "def size(text):\n    return len(text) % 7\n")
                write(lib / "tools/deep/rare.py", "from . import size\n")
                write(lib / "middle.py", "from helper import size\n")
                check = f"check{number}"
                write(
                    tmp_path / f"{check}.py", f"{head}\ndef score(messages, response):\n    return {body}\n"
                )
                write(tmp_path / "beside.py", "def size(text):\n    return len(text) % 7\n")
                places = {"folder": tmp_path, "check": check}
                write(tmp_path / "recipe.toml", filled(CHECK_RECIPE, places))
                changed = tmp_path / file if file == "beside.py" else lib / file
                import_is_known(tmp_path, changed)


def import_is_known(folder: Path, file: Path) -> None:
    run = folder / "run"
    before = set(run.glob("check-*"))
    recipe = load(folder / "recipe.toml")
    precompute(run, recipe, 1)
    first = scores_of(run, before)
    old = file.read_bytes()
    overwrite(file, old.replace(b"% 7", b"% 5"))
    between = set(run.glob("check-*"))
    precompute(run, recipe, 1)
    second = scores_of(run, between)
    lengths = pq.read_table(next(run.glob("given-*")) / "00000.responses.parquet")["text"].to_pylist()
    assert sorted(first) == sorted(len(text) % 7 for text in lengths)
    assert sorted(second) == sorted(len(text) % 5 for text in lengths)
    overwrite(file, old)
    assert len(set(run.glob("check-*"))) == len(between) + 1
    precompute(run, recipe, 1)
    assert len(set(run.glob("check-*"))) == len(between) + 1, "the old folder serves again"


def test_a_file_that_changes_after_the_plan_is_not_run_under_the_old_name(tmp_path, trials):
    write(tmp_path / "rows.jsonl", rows_of(6))
    write(tmp_path / "own.py", "import beside\ndef score(m, r):\n    return beside.size(r)\n")
    write(tmp_path / "beside.py", "def size(text):\n    return 1\n")
    write(tmp_path / "recipe.toml", filled(CHECK_RECIPE, {"folder": tmp_path, "check": "own"}))
    from engine.stages import check

    run = plan(tmp_path / "run", load(tmp_path / "recipe.toml"))
    (stage,) = [stage for stage in run.stages if stage.name == "check"]
    with trials("a check file, or its import, changed after the plan") as trial:
        for name in ("own.py", "beside.py"):
            with trial(name):
                content = (tmp_path / name).read_bytes()
                overwrite(tmp_path / name, content.replace(b"r)", b"m)").replace(b"1", b"2"))
                for look in (
                    lambda: check_unchanged(run),
                    lambda: check.prepare(run.config(stage), run.planned["check"].facts),
                ):
                    with pytest.raises(UserError, match="changed while the run was"):
                        look()
                overwrite(tmp_path / name, content)
                check_unchanged(run)
