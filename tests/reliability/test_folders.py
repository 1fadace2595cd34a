"""Whatever is done to a file of a run is noticed by what reads it, and `engine precompute` makes it again.

Noticed, or without effect: a reader says what it said before. Afterwards the same command ends in the same
bytes, and a user's own files are as they were.
"""

import json
import os
import shutil
import socket

import pytest

from engine.gaps import missing
from engine.integrity import examine
from engine.make import batch_of
from engine.opened import opened
from engine.plan import plan
from engine.scan import scan
from schemas.errors import UserError
from schemas.markers import as_json
from schemas.plans import read_plan
from schemas.recipe import load
from schemas.records import compact_bytes, json_bytes, sealed_bytes
from schemas.sealed import seal, unsealed
from schemas.shard_columns import columns_from
from schemas.store import open_store
from tests.conftest import RECIPE, preferences, settings, tree
from tests.reliability.runs import Small, cuts, flips, plan_once, refuses_or_says, said_by
from trainer.pairs import open_pairs, read_shard

IMPORT = "[prompts]\nshards = 2\n[given]\n"


@pytest.fixture(autouse=True)
def _plan_once(monkeypatch):
    plan_once(monkeypatch)


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Small:
    """Rows, a duplicate and two that are refused, in two shards."""
    folder = tmp_path_factory.mktemp("import")
    rows = [json.dumps(row) for row in preferences(3, 8)]
    (folder / "rows.jsonl").write_text("\n".join([*rows, rows[0], '{"x": 1}', "no JSON"]) + "\n")
    (folder / "recipe.toml").write_text(IMPORT)
    small = Small(folder / "run", load(folder / "recipe.toml", [f"prompts.source={folder / 'rows.jsonl'}"]))
    small.again(small.path)
    return small


@pytest.fixture(scope="module")
def modelled(tmp_path_factory, model_path) -> Small:
    """A run with log-probs and pairs, in two shards."""
    folder = tmp_path_factory.mktemp("modelled")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 6)))
    values = settings(prompts__source=folder / "rows.jsonl", model__name=model_path, prompts__shards=2)
    small = Small(folder / "run", load(RECIPE, [word for word in values if word != "--set"]))
    small.again(small.path)
    return small


def kinds(small: Small) -> dict[str, str]:
    """Kind of file -> one of that kind, by its path in the run."""
    found: dict[str, str] = {}
    for name in tree(small.path):
        file = name.rsplit("/", 1)[-1]
        kind = file.split(".", 1)[-1] if file[0].isdigit() else file
        found.setdefault("marker" if kind == "json" else kind, name)
    return found


def try_bytes(small, run, want, trial, name, changes, heal_every=1):
    """Put changed bytes in a file's place and read; make it whole again by the command and compare.

    With `heal_every` only at some of the changes; at the others a reader, or `engine verify`, notices."""
    original = (small.path / name).read_bytes()
    for number, (place, changed) in enumerate(changes(original)):
        with trial(f"{place} of {name}"):
            try:
                (run / name).write_bytes(changed)
                refused = refuses_or_says(run, want)
                if number % heal_every == 0:
                    small.again(run)
                    small.is_whole(run)
                else:
                    assert refused or examine(open_store(run)).damaged
                    (run / name).write_bytes(original)
            except BaseException:
                small.copy(run)
                raise


@pytest.mark.parametrize("all_cuts", [False, pytest.param(True, marks=pytest.mark.long)])
def test_flips_and_cuts_of_an_import(imported, tmp_path, trials, capsys, all_cuts):
    run = imported.copy(tmp_path / "run")
    want = said_by(run)
    with trials("a file of an import with one bit flipped") as trial:
        for name in kinds(imported).values():
            try_bytes(imported, run, want, trial, name, lambda data: flips(data, 1, 1))
    with trials("a file of an import cut off") as trial:
        for name in list(kinds(imported).values())[:: 1 if all_cuts else 4]:
            try_bytes(imported, run, want, trial, name, cuts)


@pytest.mark.long
def test_many_flips_of_every_kind_of_file(imported, modelled, tmp_path, trials, capsys):
    for small, name_of_run in ((imported, "an import"), (modelled, "a run with a model")):
        run = small.copy(tmp_path / "run")
        want = said_by(run)
        of_kinds = kinds(small)
        if small is modelled:
            of_kinds = {kind: of_kinds[kind] for kind in ("logprobs.parquet", "pairs.parquet")}
        for kind, name in of_kinds.items():
            with trials(f"{kind} of {name_of_run} with one bit flipped") as trial:
                try_bytes(small, run, want, trial, name, lambda data: flips(data, 200, 2), 25)


def test_a_trainer_reads_no_pair_that_is_damaged(modelled, tmp_path, trials, capsys):
    run = modelled.copy(tmp_path / "run")
    name = kinds(modelled)["pairs.parquet"]
    original = (run / name).read_bytes()
    with trials("a shard of pairs with one bit flipped, by the trainer") as trial:
        for bit, changed in flips(original, 20, 3):
            with trial(bit):
                (run / name).write_bytes(changed)
                with pytest.raises(UserError, match=r"pairs\.parquet: damaged.*engine precompute"):
                    for shard in range(2):
                        read_shard(open_pairs(run), shard, "train")
        (run / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    modelled.again(run)
    assert f"{run / name}: damaged" in capsys.readouterr().out
    modelled.is_whole(run)
    assert len(read_shard(open_pairs(run), 0, "train"))


@pytest.mark.parametrize("all_files", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_file_that_is_gone_is_made_again(imported, modelled, tmp_path, trials, capsys, all_files):
    with trials("a file of a run deleted") as trial:
        for small in (imported, modelled) if all_files else (imported,):
            for name in tree(small.path) if all_files else list(kinds(small).values())[::2]:
                if name.endswith("made_with.json"):
                    continue  # which versions made a folder nobody can know afterwards
                run = small.copy(tmp_path / "run")
                with trial(name):
                    (run / name).unlink()
                    small.again(run)
                    small.is_whole(run)


def test_damage_is_named_by_verify_and_status_all_of_it(imported, tmp_path, capsys):
    from engine.commands.status import status

    run = imported.copy(tmp_path / "run")
    spoilt = [kinds(imported)[kind] for kind in ("prompts.parquet", "marker", "facts.json")]
    spoilt.append(kinds(imported)["scores.parquet"].replace("00000", "00001"))
    for name in spoilt:
        path = run / name
        path.write_bytes(path.read_bytes()[:-2] + b"?}")
    assert set(spoilt) <= set(examine(open_store(run)).damaged)
    status(run, imported.recipe)
    said = capsys.readouterr().out
    assert "makes it again" in said and spoilt[0].split("/")[1] in said
    imported.again(run)
    said = capsys.readouterr().out
    assert f"{spoilt[0]}: damaged" in said and "made again" in said
    imported.is_whole(run)
    assert not examine(open_store(run)).damaged


# The scan


@pytest.fixture(scope="module")
def _laid(imported, tmp_path_factory):
    """A run that was killed after its scan."""
    run = tmp_path_factory.mktemp("laid") / "run"
    planned = plan(run, imported.recipe)
    with opened(planned):
        scan(planned, {0, 1}, lambda count: None)
    return run


@pytest.fixture
def scanned(_laid, tmp_path):
    """A function that gives such a run to spoil, and its scan."""

    def lay():
        run = tmp_path / "scanned"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(_laid, run)
        return run, next(run.glob("prompts-*/scan"))

    return lay


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.long)])
def test_a_scan_that_was_changed_is_laid_again(imported, scanned, trials, capsys, caplog, count):
    for name in ("00000.arrows", "00000.index", "done.json"):
        run, folder = scanned()
        original = (folder / name).read_bytes()
        changes = [*flips(original, count, 4), *list(cuts(original))[-count:], ("gone", None)]
        with trials("a file of the scan flipped, cut off or deleted") as trial:
            for what, changed in changes:
                with trial(f"{name} {what}"):
                    run, folder = scanned()
                    if changed is None:
                        (folder / name).unlink()
                    else:
                        (folder / name).write_bytes(changed)
                    capsys.readouterr()
                    imported.again(run)
                    imported.is_whole(run)
                    said = capsys.readouterr().out
                    assert "rows in 11 = rows out 8 + rejects 2 + duplicates 1" in said
                    said += caplog.text  # of what is seen only as a shard is read
                    caplog.clear()
                    if name != "done.json":
                        assert f"{name}" in said and "the input is read again" in said


def test_a_scan_damaged_while_a_run_reads_it_is_refused(imported, scanned, trials, capsys):
    """The remedy, the same command again, works."""
    with trials("a scan file changed while its run goes on") as trial:
        for what in ("flip", "cut", "gone"):
            run, folder = scanned()
            planned = plan(run, imported.recipe)
            path = folder / "00000.arrows"
            with trial(what):
                data = path.read_bytes()
                if what == "gone":
                    path.unlink()
                else:
                    place = 100  # in the rows of the first shard
                    path.write_bytes(
                        data[:place] if what == "cut" else data[:place] + b"?" + data[place + 1 :]
                    )
                with pytest.raises(UserError, match=r"00000\.arrows.*run the same `engine precompute` again"):
                    batch_of(planned, planned.stages[0], 0)
                imported.again(run)
                imported.is_whole(run)


def test_rows_in_is_what_was_read(imported, tmp_path, trials, capsys):
    """A marker that accounts for fewer rows than were read is a loss, sealed or not."""
    with trials("a shard made of fewer rows than were read") as trial:
        for change in ({"rows_in": 1, "rows_out": 1, "rejects": 0, "duplicates": 0}, {"rejects": 0}):
            run = imported.copy(tmp_path / "run")
            path = run / kinds(imported)["marker"].replace("given", "prompts")
            for path in run.glob("prompts-*/0000?.json"):
                value = unsealed(json.loads(path.read_text()))
                value["counts"] |= change
                path.write_bytes(sealed_bytes(value))
            with trial(change):
                imported.again(run)
                said = capsys.readouterr().out
                assert "made again" in said and "rows in 11 = rows out 8" in said
                imported.is_whole(run)


def test_a_scan_that_stayed_is_removed_by_a_run_with_nothing_to_do(imported, tmp_path, capsys):
    run = imported.copy(tmp_path / "run")
    folder = next(run.glob("prompts-*")) / "scan"
    folder.mkdir()
    (folder / "00000.arrows").write_bytes(b"left")
    imported.again(run)
    assert "nothing to do" in capsys.readouterr().out
    imported.is_whole(run)


# What sums up, and what names


def rewritten(path, change, how):
    """Change a JSON file of ours and write it back: with its old seal, with none, or sealed anew."""
    value = json.loads(path.read_text())
    old = value.pop("sha256")
    change(value)
    written = compact_bytes if path.name == "manifest.json" else sealed_bytes
    new = seal(value)["sha256"].encode()
    contents = {
        "old": written(value).replace(new, old.encode()),
        "none": json_bytes(value),
        "anew": written(value),
    }
    path.write_bytes(contents[how])


def drop(manifest):
    shards = manifest["shards"]
    tables = shards["layouts"][shards["layout"].pop()]
    for table in reversed(tables):
        manifest["rows"][table] -= shards["rows"].pop()
        for name in ("sha256", "file_sizes"):
            shards[name].pop()
    for name in ("numbers", "digests", "sizes"):
        shards[name].pop()
    for column in [*shards["made_from"].values(), *shards["counts"].values()]:
        column.pop()
    manifest["counts"] = {name: sum(filter(None, column)) for name, column in shards["counts"].items()}


def add(manifest):
    shards = manifest["shards"]
    tables = shards["layouts"][shards["layout"][0]]
    for at, table in enumerate(tables):
        manifest["rows"][table] += shards["rows"][at]
        for name in ("rows", "sha256", "file_sizes"):
            shards[name].append(shards[name][at])
    shards["numbers"].append(2)
    for column in [shards["digests"], shards["sizes"], shards["layout"], *shards["made_from"].values()]:
        column.append(column[0])
    for name, column in shards["counts"].items():
        column.append(column[0])
        manifest["counts"][name] += column[0] or 0


def more_rows(manifest):
    manifest["rows"] = {table: rows + 1 for table, rows in manifest["rows"].items()}


def more_in_shard(manifest):
    manifest["shards"]["rows"][0] += 1


def other_marker(manifest):
    manifest["shards"]["sizes"][0] += 1


def columns_of_other_lengths(manifest):
    manifest["shards"]["sha256"].pop()


def no_table(manifest):
    manifest["shards"]["layouts"][0][0] = "../pairs"


def out_of_order(manifest):
    manifest["shards"]["numbers"].reverse()


def other_facts(manifest):
    manifest["facts"]["version"] = 9


def other_type(manifest):
    manifest["counts"] = {"train": "12"}


CHANGES = (
    drop,
    add,
    more_rows,
    more_in_shard,
    other_marker,
    columns_of_other_lengths,
    no_table,
    out_of_order,
    other_facts,
    other_type,
)


def test_a_manifest_that_does_not_sum_up_its_markers_is_refused(modelled, tmp_path, trials, capsys):
    with trials("a manifest that says something else than its markers") as trial:
        for change in CHANGES:
            for how in ("old", "none", "anew"):
                run = modelled.copy(tmp_path / "run")
                with trial(f"{change.__name__}, seal {how}"):
                    rewritten(next(run.glob("pairs-*/manifest.json")), change, how)
                    with pytest.raises(UserError, match=r"manifest\.json: damaged.*engine precompute"):
                        open_pairs(run)
                    with pytest.raises(UserError, match=r"manifest\.json: damaged.*engine precompute"):
                        said_by(run)
                    assert any("manifest.json" in name for name in examine(open_store(run)).damaged)
                    modelled.again(run)
                    assert "manifest.json: damaged" in capsys.readouterr().out
                    modelled.is_whole(run)


def outside_names(tmp_path):
    secret = tmp_path / "outside"
    secret.mkdir(exist_ok=True)
    (secret / "00000.prompts.parquet").write_bytes(b"theirs")
    return ["../../outside/00000.prompts.parquet", str(secret / "00000.prompts.parquet"), "..", "", "a\0b"]


@pytest.mark.parametrize("all_names", [False, pytest.param(True, marks=pytest.mark.long)])
def test_names_in_files_of_a_run_cannot_leave_it(imported, tmp_path, trials, capsys, all_names):
    with trials("a name in a plan, marker or manifest that leads outside") as trial:
        names = outside_names(tmp_path)
        for name in names if all_names else names[:2]:
            for how in ("none", "anew") if all_names else ("anew",):

                def of_file(value, name=name):
                    value["files"][0]["name"] = name

                def of_manifest(value, name=name):
                    value["shards"]["layouts"][0][0] = name

                def of_plan(value, name=name):
                    value["stages"][0]["folder"] = name

                for where, change in (
                    ("prompts-*/00000.json", of_file),
                    ("prompts-*/manifest.json", of_manifest),
                    ("plan.json", of_plan),
                ):
                    run = imported.copy(tmp_path / "run")
                    with trial(f"{where} {name!r} {how}"):
                        rewritten(next(run.glob(where)), change, how)
                        with pytest.raises(UserError, match="damaged"):
                            said_by(run)
                        imported.again(run)
                        imported.is_whole(run)
    assert (tmp_path / "outside" / "00000.prompts.parquet").read_bytes() == b"theirs"


def test_a_name_is_one_of_something_in_the_folder(tmp_path, trials):
    store = open_store(tmp_path / "run")
    (tmp_path / "outside").write_text("theirs")
    calls = {
        "child": store.child,
        "read": store.read,
        "size": store.size,
        "exists": lambda name: store.exists(name) if name else store.read(name),
        "put": lambda name: store.put(name, b"x"),
        "put_if_absent": lambda name: store.put_if_absent(name, b"x"),
        "put_file": lambda name: store.put_file(name, lambda path: path.write_bytes(b"x")),
        "put_folder": lambda name: store.put_folder(name, lambda path: None),
        "append": store.append,
        "local_path": lambda name: store.local_path(name) if name else store.read(name),
        "remove": lambda name: store.remove(name) if name else store.child(name).remove("x"),
    }
    with trials("a name that is none, by each method of the store") as trial:
        for name in ("../outside", "..", ".", "a/b", str(tmp_path / "outside"), "a\0b"):
            for method, call in calls.items():
                with trial(f"{method} {name!r}"), pytest.raises(UserError, match="not the name of a file"):
                    call(name)
    assert (tmp_path / "outside").read_text() == "theirs"


# Links, pipes, and what belongs to the user


def put_link(path, target):
    path.symlink_to(target)


def put_pipe(path, target):
    os.mkfifo(path)


def put_socket(path, target):
    short = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{short}/{path.name}")
    os.close(short)


def test_links_and_pipes_in_a_run_are_refused_and_nothing_is_touched(imported, tmp_path, trials, capsys):
    """Each kind in the place of each thing: whoever reads or writes there refuses with its name at once."""
    outside = tmp_path / "outside"
    places = [*kinds(imported).values(), ".lock", next(imported.path.glob("prompts-*")).name]
    with trials("a link, pipe or socket in the place of a file or folder") as trial:
        for number, place in enumerate(places):
            for put in (put_link, (put_pipe, put_socket)[number % 2]):
                run = imported.copy(tmp_path / "run")
                shutil.rmtree(outside, ignore_errors=True)
                outside.mkdir()
                with trial(f"{put.__name__} {place}"):
                    path = run / place
                    target = outside / "mine.1234.tmp"
                    target.write_text("theirs")
                    if path.exists():
                        shutil.move(path, outside / "moved")
                        target = outside / "moved"
                    put(path, target)
                    before = tree(outside)
                    with pytest.raises(UserError, match=r"is a (symbolic link|named pipe|socket)") as error:
                        imported.again(run)
                    assert str(path) in str(error.value)
                    assert tree(outside) == before
                    path.unlink()
                    imported.again(run)  # what the sentence says to do
                    imported.is_whole(run)


def test_a_run_may_be_reached_through_a_link_and_a_users_files_stay(imported, tmp_path, capsys):
    run = imported.copy(tmp_path / "real" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    folder = next(run.glob("prompts-*"))
    mine = {}
    for place in (run, folder):
        for name in ("backup.20261125.tmp", "mine.1234.tmp", "x.tmp", ".hidden.1.tmp", "notes.md", "9.json"):
            mine[place / name] = name
            (place / name).write_text(name)
    (folder / "00000.json").unlink()
    imported.again(tmp_path / "link" / "run")
    assert {path: path.read_text() for path in mine} == mine
    for path in mine:
        path.unlink()
    imported.is_whole(run)


def test_huge_and_nested_json_is_refused_at_once(imported, tmp_path, trials, capsys):
    contents = {
        "nested": b"[" * 300_000,
        "a surrogate": b'{"shards": 2, "stages": [], "x": "\\ud800"}',
        "a list": b"[1]",
        "a long number": b'{"shards": ' + b"9" * 5000 + b"}",
    }
    with trials("JSON of a run that is huge, nested or none") as trial:
        for where in ("plan.json", "prompts-*/00000.json", "prompts-*/manifest.json", "prompts-*/facts.json"):
            for what in (*contents, "sparse"):
                run = imported.copy(tmp_path / "run")
                path = next(run.glob(where))
                with trial(f"{what} {where}"):
                    if what == "sparse":
                        os.truncate(path, 1 << 40)
                    else:
                        path.write_bytes(contents[what])
                    assert any("damaged" in why for why in damage_of(run))
                    imported.again(run)
                    imported.is_whole(run)


def damage_of(run):
    try:
        read_plan(open_store(run))
    except UserError as error:
        return [str(error)]
    return list(examine(open_store(run)).damaged.values())


def test_a_run_of_the_version_before_is_complete_and_stays_as_it_is(imported, tmp_path, capsys):
    """Without seals, sizes and scanned.json: nothing to do, read as before, and damage is found."""
    run = imported.copy(tmp_path / "run")
    for path in run.rglob("*.json"):
        value = json.loads(path.read_text())
        value.pop("sha256", None)
        value.pop("recipe", None)
        value.pop("threads", None)
        if path.name == "manifest.json":
            value["shards"] = [as_json(marker) for marker in columns_from(value["shards"])]
        shards = value.get("shards", [])
        for shard in [value, *(shards if isinstance(shards, list) else [])]:
            for file in shard.get("files", []):
                file.pop("size")
        path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    next(run.glob("prompts-*/scanned.json")).unlink()
    before = tree(run)
    want = said_by(imported.path)
    assert said_by(run) == want and not missing(plan(run, imported.recipe))
    imported.again(run)
    assert "nothing to do" in capsys.readouterr().out
    after = tree(run)
    del before["plan.json"], after["plan.json"]
    assert after == before
    path = run / kinds(imported)["responses.parquet"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    imported.again(run)
    assert said_by(run) == want
