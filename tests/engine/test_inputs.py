"""Every file of a folder is read or named; what is held out stays so; a part is taken as asked."""

import json
import logging
import os

import pyarrow as pa
import pytest

from engine.inputs import find, inputs
from engine.row_reader import RowReader
from engine.stage import Context
from engine.stages import pairs, prompts
from schemas.errors import UserError
from schemas.sections import Given, Prompts
from tests.engine.planned import planning


def row(number, **more):
    return {"prompt": f"Say {number}.", "chosen": f"{number}.", "rejected": "No."} | more


def write(path, values):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def facts_of(config):
    sections = {"prompts": config}
    return json.loads(json.dumps(prompts.facts(config, planning(sections, "prompts"))))


def made(**settings):
    """All prompts of all shards, their rejects, and the sums of the counts."""
    config = Prompts(**({"format": "preference"} | settings))
    facts = facts_of(config)
    shards: dict[int, list[pa.Table]] = {}
    for scanned in prompts.scan(config, facts):
        for place, shard in enumerate(scanned.shards):
            shards.setdefault(shard, []).append(scanned.rows.slice(place, 1))
    found, rejects, counts = [], [], {}
    for parts in shards.values():
        one = prompts.make(pa.concat_tables(parts), config, Context(seed=0))
        found += one.tables["prompts"].to_pylist()
        rejects += one.tables["rejects"].to_pylist()
        for name, count in one.counts.items():
            counts[name] = counts.get(name, 0) + count
    assert counts["rows_in"] == counts["rows_out"] + counts["rejects"] + counts["duplicates"]
    return found, rejects, counts


def splits(found):
    return {one["prompt"]: one["given_split"] for one in found}


# Which files are read.


def test_a_folder_is_read_whole_or_says_what_it_leaves_out(tmp_path, caplog):
    for name in ("a.jsonl", "B.JSONL", "c.Json.GZ", "d.jsonlines", "sub/e.PARQUET"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in (
        "f.jsonl.txt",
        "g.jsonl.xz",
        "readme.md",
        "dataset_info.json",
        "sub/state.json",
        ".hidden.jsonl",
    ):
        (tmp_path / name).touch()
    assert sorted(find([str(tmp_path)])) == [
        "B.JSONL",
        "a.jsonl",
        "c.Json.GZ",
        "d.jsonlines",
        "sub/e.PARQUET",
    ]
    caplog.set_level(logging.INFO, logger="prefmill")
    inputs(Prompts(source=(str(tmp_path),)), tell=True)
    (said,) = caplog.messages
    for name in ("f.jsonl.txt", "g.jsonl.xz", "readme.md", "dataset_info.json", "sub/state.json", "1 hidden"):
        assert name in said
    assert "a.jsonl," not in said


def test_suffixes_without_case_are_read_as_what_they_are(tmp_path):
    import gzip

    lines = "".join(json.dumps(row(n)) + "\n" for n in range(3))
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "B.Json").write_text(json.dumps([row(n) for n in range(3, 6)]))
    found, rejects, _ = made(source=(str(tmp_path),))
    assert len(found) == 6 and not rejects


def test_a_link_that_leads_back_up_ends(tmp_path):
    write(tmp_path / "a" / "x.jsonl", [row(1)])
    os.symlink(tmp_path, tmp_path / "a" / "up")
    os.symlink(tmp_path / "a", tmp_path / "a" / "self")
    assert list(find([str(tmp_path)])) == ["x.jsonl"]
    (tmp_path / "a" / "self").unlink()
    assert list(find([str(tmp_path / "**" / "*.jsonl")])) == ["x.jsonl"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("https://example.org/x.jsonl", "https://example.org/x.jsonl, which is a URL; only files are read"),
        ("s3://bucket/x.parquet", "s3://bucket/x.parquet, which is a URL"),
        ("hf://datasets/org/name", "hf download org/name --repo-type dataset"),
        ("hf://datasets/org/name/data/a.parquet", "hf download org/name --repo-type dataset"),
        ("hf://datasets/org/name@v2/a.parquet", "hf download org/name --repo-type dataset"),
        ("a.jsonl,b.jsonl", 'source = ["a.jsonl", "b.jsonl"]'),
        ("some-org/some_name", "only files are read. If some-org/some_name is a data set on the Hub"),
        ("some-org/some_name", 'pip install "prefmill[datasets]"'),
        ("nowhere/x.jsonl", "expected a file, a folder or a glob"),
    ],
)
def test_what_is_no_file_is_named_for_what_it_is(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.hub._is_installed", lambda: False)
    for given in (source, os.path.abspath(source)):
        with pytest.raises(UserError) as error:
            find([given])
        assert said in str(error.value)


def test_a_folder_of_tables_under_other_names_says_what_they_are(tmp_path):
    (tmp_path / "x.txt").write_text("prompt,chosen\na,b\n")
    with pytest.raises(UserError, match=r"it holds x\.txt.*CSV with the columns prompt, chosen.*in \.csv"):
        find([str(tmp_path)])


# Which prompts are held out.


@pytest.mark.parametrize(
    ("name", "is_held_out"),
    [
        ("test.jsonl", True),
        ("my-test-00000-of-00001.jsonl", True),
        ("Validation.jsonl", True),
        ("eval_prefs.jsonl", True),
        ("test/0000.jsonl", True),
        ("contest.jsonl", False),
        ("latest.jsonl", False),
        ("train-dev.jsonl", False),
        ("evaluated.jsonl", False),
        ("testset.jsonl", True),
        ("TestData.jsonl", True),
        ("tests.jsonl", True),
        ("testing.jsonl", True),
        ("held-out.jsonl", True),
        ("hold_out.jsonl", True),
        ("prefsHeldOut.jsonl", True),
        ("evalset.jsonl", True),
        ("devset-1.jsonl", True),
        ("validated.jsonl", True),
        ("validation_set.jsonl", True),
        ("train/test_prefs.jsonl", True),
        ("test/trainset.jsonl", False),
        ("tested_by_hand.jsonl", False),
        ("devices.jsonl", False),
        ("attestings.jsonl", False),
    ],
)
def test_files_named_test_are_held_out(tmp_path, name, is_held_out):
    write(tmp_path / "rest.jsonl", [row(1)])
    write(tmp_path / name, [row(2)])
    found, _, counts = made(source=(str(tmp_path),))
    expected = {"Say 1.": "train", "Say 2.": "test"} if is_held_out else {"Say 1.": None, "Say 2.": None}
    assert splits(found) == expected and counts["held_out"] == is_held_out
    off, _, _ = made(source=(str(tmp_path),), test_by_name=False)
    assert set(splits(off).values()) == {None}


@pytest.mark.parametrize("above", ["dev", "test", "val"])
def test_a_folder_above_a_source_says_nothing_of_it(tmp_path, above, caplog):
    write(tmp_path / above / "shm" / "x.jsonl", [row(1)])
    write(tmp_path / "other" / "y.jsonl", [row(2)])
    caplog.set_level(logging.INFO, logger="prefmill")
    for own in (f"{above}/shm/x.jsonl", f"{above}/shm", f"{above}/shm/*.jsonl"):
        caplog.clear()
        source = (str(tmp_path / own), str(tmp_path / "other/y.jsonl"))
        assert not inputs(Prompts(source=source), tell=True).held_out
        assert f"trained on, though a folder says test: {above}/shm/x.jsonl" in " ".join(caplog.messages)
    below = inputs(Prompts(source=(str(tmp_path / above), str(tmp_path / "other"))))
    assert below.held_out == {f"{above}/shm/x.jsonl"}


def test_a_glob_drops_nothing_in_silence(tmp_path, caplog):
    write(tmp_path / "a.jsonl", [row(1)])
    write(tmp_path / "sub" / "b.jsonl", [row(2)])
    (tmp_path / "README.md").write_text("# Rows\n")
    (tmp_path / "sub" / "notes.txt").write_text("none")
    (tmp_path / "bare").mkdir()
    caplog.set_level(logging.INFO, logger="prefmill")
    found = inputs(Prompts(source=(str(tmp_path / "*"),)), tell=True)
    assert sorted(found.files) == ["a.jsonl", "sub/b.jsonl"]
    said = " ".join(caplog.messages)
    for name in ("README.md", "sub/notes.txt", "bare/ (nothing to read)"):
        assert name in said
    assert list(find([str(tmp_path / "s*")])) == ["b.jsonl"]
    assert sorted(find([str(tmp_path / "**")])) == ["a.jsonl", "sub/b.jsonl"]
    with pytest.raises(UserError, match=r"nothing to read at .*it holds bare/ \(nothing to read\)"):
        find([str(tmp_path / "ba*")])


def test_a_glob_that_writes_a_suffix_out_means_it(tmp_path):
    for name in ("a.txt", "b.jsonl", "part-0", "part-1"):
        write(tmp_path / name, [row(1)])
    assert list(find([str(tmp_path / "*.txt")])) == ["a.txt"]
    assert list(find([str(tmp_path / "part-*")])) == ["part-0", "part-1"]


def test_files_all_named_test_are_not_held_out(tmp_path):
    write(tmp_path / "test-a.jsonl", [row(1)])
    write(tmp_path / "test-b.jsonl", [row(2)])
    found, _, _ = made(source=(str(tmp_path),))
    assert set(splits(found).values()) == {None}


def test_a_prompt_in_both_files_is_held_out(tmp_path):
    write(tmp_path / "in.jsonl", [row(n) for n in range(5)])
    write(tmp_path / "own.jsonl", [row(4), row(5), row(3, rejected="Never.")])
    found, _, counts = made(source=(str(tmp_path / "in.jsonl"),), test_source=(str(tmp_path / "own.jsonl"),))
    held_out = {prompt for prompt, split in splits(found).items() if split == "test"}
    assert held_out == {"Say 3.", "Say 4.", "Say 5."}
    assert counts["held_out_though_also_in_train"] == 2 and counts["duplicates"] == 1


def test_files_in_both_sources_are_held_out(tmp_path):
    write(tmp_path / "a.jsonl", [row(1)])
    write(tmp_path / "b.jsonl", [row(2)])
    found, _, _ = made(source=(str(tmp_path),), test_source=(str(tmp_path / "b.jsonl"),))
    assert splits(found) == {"Say 1.": "train", "Say 2.": "test"}
    with pytest.raises(UserError, match="nothing is left to train on"):
        made(source=(str(tmp_path),), test_source=(str(tmp_path),))


def test_a_column_says_the_split_of_its_row(tmp_path):
    spelled = ["train", "test", "Validation", "train_prefs", "dev", "eval-1", None, ""]
    values = [row(n, split=value) for n, value in enumerate(spelled)]
    write(tmp_path / "x.jsonl", [*values, row(8, split="fold-3"), row(9, split=2)])
    found, rejects, _ = made(source=(str(tmp_path / "x.jsonl"),))
    said = splits(found)
    given = [said[f"Say {n}."] for n in range(8)]
    assert given == ["train", "test", "test", "train", "test", "test", None, None]
    assert [one["reason"] for one in rejects] == ["bad_split"] * 2
    details = " ".join(one["detail"] for one in rejects)
    assert "'fold-3'" in details and "'2'" in details
    found, rejects, _ = made(source=(str(tmp_path / "x.jsonl"),), split_column="")
    assert len(found) == 10 and not rejects
    assert set(splits(found).values()) == {None}


def test_pairs_follow_the_prompts_split_before_the_share():
    rows = pa.table(
        {"prompt_id": ["0" * 32, "0" * 32, "f" * 32, "f" * 32], "split": ["train", None, "test", None]}
    )
    assert pairs._splits(rows, test_share=0.5) == ["train", "test", "test", "train"]


# What the facts name.


def test_what_is_not_asked_for_is_no_fact(tmp_path):
    write(tmp_path / "x.jsonl", [row(n) for n in range(3)])
    config = Prompts(source=(str(tmp_path / "x.jsonl"),))
    plain = facts_of(config)
    assert plain.keys() == {"input", "format", "format_sql", "max_row_bytes", "shards"}
    changed = {"ignore": ("id",), "limit": 2, "sample": 2, "split_column": "part"}
    for name, value in changed.items():
        facts = facts_of(Prompts(source=config.source, **{name: value}))
        assert facts.keys() - plain.keys() == {name}
    write(tmp_path / "y.jsonl", [row(9)])
    facts = facts_of(Prompts(source=config.source, test_source=(str(tmp_path / "y.jsonl"),)))
    assert facts["held_out"] == ["y.jsonl"] and set(facts["input"]) == {"x.jsonl", "y.jsonl"}


def test_given_without_responses_is_refused_before_any_work(tmp_path):
    config = Prompts(source=(str(tmp_path / "x.jsonl"),), ignore=("response_a",))
    sections = {"prompts": config, "given": Given()}
    write(tmp_path / "x.jsonl", [{"prompt": "q", "topic": "sea", "response_a": "r"}])
    with pytest.raises(
        UserError, match=r"\[given\].*format prompts; left out are its columns response_a, to"
    ):
        prompts.facts(config, planning(sections, "prompts"))
    prompts.facts(config, planning(sections | {"generate": Given()}, "prompts"))
    prompts.facts(config, planning({"prompts": config}, "prompts"))
    write(tmp_path / "x.jsonl", [row(1)])
    prompts.facts(config, planning(sections, "prompts"))


# A part of the input.


def test_a_limit_takes_the_first_prompts_and_reads_no_further(tmp_path):
    write(
        tmp_path / "a.jsonl",
        [row(0), row(0, rejected="x"), row(1), row(1), {"bad": 1}, row(2), {"bad": 2}, row(3)],
    )
    write(tmp_path / "test.jsonl", [row(10), row(11), row(12)])
    found, rejects, counts = made(source=(str(tmp_path),), limit=2)
    assert set(splits(found)) == {"Say 0.", "Say 1.", "Say 10.", "Say 11."}
    assert [reject["line"] for reject in rejects] == [5]
    assert counts["rows_in"] == 7 and counts["duplicates"] == 1
    found, _, _ = made(source=(str(tmp_path),), limit=99)
    assert len(found) == 7


def test_a_limit_reads_no_rows_behind_it(tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", [row(n) for n in range(5000)])
    config = Prompts(source=(str(tmp_path / "a.jsonl"),), limit=10)
    facts = facts_of(config)
    read = []
    monkeypatch.setattr("engine.raw._CHUNK", 1000)
    table = RowReader.table

    def counted(reader, batch):
        read.extend(batch.lines)
        return table(reader, batch)

    monkeypatch.setattr(RowReader, "table", counted)
    assert sum(len(scanned.shards) for scanned in prompts.scan(config, facts)) == 10
    assert len(read) <= 1024


def test_a_sample_is_the_same_in_any_order_of_files(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="prefmill")
    values = [row(n) for n in range(60)] + [row(n, rejected="Never.") for n in range(60)]
    write(tmp_path / "one" / "a.jsonl", values[:70])
    write(tmp_path / "one" / "b.jsonl", values[70:])
    write(tmp_path / "two" / "a.jsonl", values[::-1])
    first, _, counts = made(source=(str(tmp_path / "one"),), sample=12)
    assert any("a sample of 12 of its 60 prompts" in said for said in caplog.messages)
    second, _, _ = made(source=(str(tmp_path / "two"),), sample=12)
    assert len(first) == 12 and set(splits(first)) == set(splits(second))
    assert counts["rows_in"] == 24
    smaller, _, _ = made(source=(str(tmp_path / "two"),), sample=5)
    assert set(splits(smaller)) < set(splits(first))
    every, _, _ = made(source=(str(tmp_path / "two"),), sample=999)
    assert len(every) == 60


def test_limit_and_sample_at_once_are_refused():
    with pytest.raises(UserError, match="set limit for the first prompts, or sample"):
        Prompts(limit=1, sample=1)


def test_few_prompts_of_a_large_input_are_few_shards(tmp_path):
    write(tmp_path / "a.jsonl", [row(n, comment="x" * 1000) for n in range(30_000)])
    config = Prompts(source=(str(tmp_path / "a.jsonl"),))
    assert facts_of(config)["shards"] > 2
    assert facts_of(Prompts(source=config.source, limit=10))["shards"] == 1


# References for the judge.


@pytest.mark.parametrize("column", ["reference", "reference_answer", "ground_truth", "solution"])
def test_a_reference_is_kept_and_names_no_prompt(tmp_path, column):
    write(tmp_path / "x.jsonl", [row(1, **{column: "one"}), row(2)])
    found, _, _ = made(source=(str(tmp_path / "x.jsonl"),))
    with_reference = {one["prompt"]: one["reference"] for one in found}
    assert with_reference == {"Say 1.": "one", "Say 2.": None}
    write(tmp_path / "x.jsonl", [row(1), row(2)])
    without, _, _ = made(source=(str(tmp_path / "x.jsonl"),))
    assert [one["prompt_id"] for one in found] == [one["prompt_id"] for one in without]


def test_references_that_differ_are_none_and_counted(tmp_path):
    values = [
        row(1, reference="a"),
        row(1, reference="b", rejected="x"),
        row(2, reference="c"),
        row(2, rejected="x"),
    ]
    write(tmp_path / "x.jsonl", values)
    found, rejects, counts = made(source=(str(tmp_path / "x.jsonl"),))
    assert {one["prompt"]: one["reference"] for one in found} == {"Say 1.": None, "Say 2.": "c"}
    assert counts["references_that_differ"] == 1 and not rejects
    write(tmp_path / "x.jsonl", [row(1), row(2), row(3, reference="a", solution="b"), row(4, reference=7)])
    found, rejects, _ = made(source=(str(tmp_path / "x.jsonl"),), format="preference")
    assert {one["reason"] for one in rejects} == {"two_references", "missing_or_mistyped"}
    assert any("reference is the number 7" in one["detail"] for one in rejects)
