"""The fast way and the careful way give the same rows of the scan, of real and of hostile files.

The careful way is the format's SQL with all checks; engine/plain reads what it can without."""

import gzip
import itertools
import json
import random
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import lone_rows, raw
from engine.formats import shipped
from engine.make import write_parquet
from engine.markup import markup_of_answer, markup_of_prompt
from engine.plain import READERS, reader_of, sql_digest
from engine.plain.plain_row import BEGINNINGS, ENDINGS
from engine.row_reader import RowReader
from engine.stage import Context
from engine.stages import prompts
from schemas.digest import sha256_file
from schemas.extensions import included
from schemas.sections import Prompts
from tests.conftest import SHARED, preferences
from tests.reliability.hostile_lines import VALUES, hostile_lines, seeds

PLAIN = sorted(READERS)


class Counting(RowReader):
    """Counts the rows that go the careful way."""

    careful = 0

    def _note(self, readings):
        self.careful += len(readings)
        super()._note(readings)


def both(path, name, split_of_file=None, **settings):
    """What both ways make of a file; returns the rows, and how many of them needed the careful way."""
    config = Prompts(source=(str(path),), format=name, **settings)
    made = []
    for plain in (True, False):
        reader = Counting(config, included("sql", name, ".sql"), lambda file: split_of_file, plain)
        batches = raw.batches(raw.Part(path.name, path), config.max_row_bytes)
        tables = [reader.table(batch) for batch in batches]
        made.append((reader, pa.concat_tables(tables)))
    (fast, rows), (slow, careful_rows) = made
    assert rows.to_pylist() == careful_rows.to_pylist()
    assert set(fast.left_out) == set(slow.left_out) and fast.guessed == slow.guessed
    return rows.to_pylist(), fast.careful


def write_lines(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def dialogues(count):
    """Rows in the shapes of real files, with odd texts in them."""
    draw = random.Random(5)
    texts = [text for text in VALUES if isinstance(text, str)]
    words = "How a but Human: user: assistant: <s> [INST] ### Instruction end. </s> é 漢字"
    words = [
        *words.split(),
        "\u2028",
        "\x7f",
        "\ufffe",
        "\U0010ffff",
        *texts,
        "\n\nHuman:",
        "\n\nAssistant:",
        "\n\n",
        '"',
        "\\",
        '\\"',
        '":',
        " : ",
    ]

    def text():
        if draw.random() < 0.8:
            return " ".join(draw.choices(["so", "it", "is", "one", "more", "Time:", 'said "no"'], k=6)) + "."
        return draw.choice(["", " ", "\n"]) + " ".join(draw.choices(words, k=draw.randint(1, 5)))

    for _ in range(count):
        turns = [user(text())]
        for _ in range(draw.randint(0, 2)):
            turns += [assistant(text()), user(text())]
        if draw.random() < 0.2:
            turns.insert(0, {"role": "system", "content": text()})
        sides = [text(), text()]
        said = "".join(
            f"\n\n{'Human' if turn['role'] == 'user' else 'Assistant'}: {turn['content']}" for turn in turns
        )
        yield draw.choice(
            [
                {"prompt": turns[-1]["content"], "chosen": sides[0], "rejected": sides[1]},
                {"prompt": turns, "chosen": sides[0], "rejected": sides[1]},
                {"prompt": turns, "chosen": [assistant(sides[0])], "rejected": [assistant(sides[1])]},
                {
                    "prompt": turns[-1]["content"],
                    "chosen": [*turns, assistant(sides[0])],
                    "rejected": [*turns, assistant(sides[1])],
                },
                {
                    "prompt": turns,
                    "chosen": [*turns[-1:], assistant(sides[0])],
                    "rejected": [*turns[-1:], assistant(sides[1])],
                },
                {
                    "chosen": f"{said}\n\nAssistant: {sides[0]}",
                    "rejected": f"{said}\n\nAssistant: {sides[1]}",
                },
                {"prompt": turns},
                {"messages": turns},
                {"prompt": turns[-1]["content"]},
            ]
        )


def with_more(row, draw):
    """A row with columns beside, most of which only tell about it."""
    more = {
        "id": draw.choice([7, "a1", None, 10**30]),
        "source": draw.choice(["web", "two words", "", "[1]"]),
        "n_turns": 3,
        "ok": draw.choice([True, False, None]),
        "steps": draw.choice(["3", "first this, then that", 4]),
        "step": draw.choice([1, "one", "one step"]),
        "split": draw.choice(["train", "test_prefs", "", None, "half", 3]),
        "score_chosen": 3.5,
        "tools": draw.choice([None, []]),
        "system": draw.choice(["", "Be brief."]),
        "task": draw.choice(["qa", "a longer task", {"a": 1}]),
        "has_image": draw.choice([True, False]),
        "chosen_model": "m",
        "loss": 1.5,
        'a"b': 1,
        "a\\": 1,
        "é": "x",
    }
    names = draw.sample(sorted(more), draw.choice([1, 1, 2]))
    row = row | {name: more[name] for name in names}
    order = draw.sample(sorted(row), len(row))
    return {name: row[name] for name in order}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Lines of every kind: plain, odd, with columns beside, with names twice, hostile, blank."""
    draw = random.Random(6)
    lines = []
    for row in dialogues(300):
        if draw.random() < 0.4:
            row = with_more(row, draw)
        line = json.dumps(row, ensure_ascii=draw.random() < 0.3).encode()
        if draw.random() < 0.1:
            name = draw.choice(sorted(row))
            again = json.dumps(name).replace(name[0], f"\\u{ord(name[0]):04x}", 1)
            line = line[:-1] + draw.choice([b", %s: 1}", b",%s :1}", b", %s\t: 1}"]) % again.encode()
        if draw.random() < 0.05:
            line = line.replace(b'"role"', b'"role": "user", "role"', 1)
        if draw.random() < 0.05:
            line = draw.choice([b"", b"  ", b"\t" + line + b" \r", line.replace(b": ", b" :\t")])
        lines.append(line)
    lines += hostile_lines(3, 120)
    lines += [json.dumps(row).encode() for row in itertools.chain(seeds(), preferences(1, 20))]
    draw.shuffle(lines)
    return write_lines(tmp_path_factory.mktemp("mixed") / "mixed.jsonl", lines)


@pytest.mark.parametrize("name", PLAIN)
def test_both_ways_give_the_same_rows(mixed, name):
    rows, careful = both(mixed, name)
    assert 0 < careful < len(rows)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(path.stem for path in shipped()))
def test_both_ways_give_the_same_rows_of_every_format(tmp_path, name):
    for seed in range(6):
        both(write_lines(tmp_path / "hostile.jsonl", hostile_lines(seed, 700)), name)
        rows = list(dialogues(700))
        draw = random.Random(seed)
        lines = [json.dumps(with_more(row, draw) if seed % 2 else row).encode() for row in rows]
        both(write_lines(tmp_path / "dialogues.jsonl", lines), name)


@pytest.mark.parametrize(
    "settings",
    [
        {"ignore": ("system", "tools")},
        {"ignore": ("chosen.name",)},
        {"split_column": "source"},
        {"split_column": ""},
        {"metadata": ("id",)},
        {"columns": {"prompt": "task"}},
        {"max_row_bytes": 150},
    ],
    ids=str,
)
def test_both_ways_keep_what_the_recipe_says(mixed, settings):
    both(mixed, "preference", **settings)


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_ways_know_the_split_of_a_file(mixed, split):
    rows, _ = both(mixed, "preference", split)
    assert split in {row["split"] for row in rows}


def test_both_ways_read_columns(tmp_path):
    """Parquet and Arrow, with nulls, numbers that are none, and text that is not UTF-8 or has NUL in it."""
    for kind in (list, str):
        rows = []
        for number, row in enumerate(dialogues(250)):
            if isinstance(row.get("chosen"), kind) and isinstance(row.get("prompt"), kind):
                rows.append(row | {"id": number, "loss": float("nan") if number % 7 == 0 else 1.0})
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
        found, careful = both(tmp_path / "a.parquet", "preference")
        assert len(found) == len(table) > 20 and careful < len(table)
        with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
            file.write_table(table, max_chunksize=7)
        again, _ = both(tmp_path / "a.arrow", "preference")
        assert [row["row_id"] for row in again] == [row["row_id"] for row in found]
    spoilt = pa.array([b"fine", b"\xff", None, b"a\0b"]).view(pa.string())
    table = pa.table({"prompt": ["q1", "q2", "q3", "q4"], "chosen": spoilt, "rejected": ["a", "b", "c", "d"]})
    pq.write_table(table, tmp_path / "spoilt.parquet")
    found, _ = both(tmp_path / "spoilt.parquet", "preference")
    assert [row["reason"] for row in found[:3]] == [None, "bad_utf8", "missing_or_mistyped"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json", ".csv"])
def test_both_ways_read_other_files(tmp_path, suffix):
    rows = [row for row in dialogues(150) if set(row) == {"prompt", "chosen", "rejected"}]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n\n" for row in rows).encode()))
    elif suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        import csv

        rows = [row for row in rows if isinstance(row["prompt"], str) and isinstance(row["chosen"], str)]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows)
    found, careful = both(path, "preference")
    assert len(found) == len(rows) and careful < len(rows)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("hh-harmless.jsonl.gz", "hh"),
        ("sharegpt-dpo.json", "sharegpt"),
        ("gsm8k-solutions.jsonl.gz", "gsm8k"),
    ],
)
def test_both_ways_give_the_same_rows_of_real_files(file, name):
    rows, careful = both(SHARED / "data" / file, name)
    assert name != "hh" or careful < len(rows) / 4


def test_each_reader_knows_the_sql_that_it_reads_as():
    """Whoever changes the SQL of a format changes its reader too, and then the digest that it names."""
    for name, reader in READERS.items():
        assert reader.sql_digest == sql_digest(included("sql", name, ".sql")), name


def test_sql_of_a_users_own_has_no_reader(tmp_path):
    own = tmp_path / "preference.sql"
    own.write_text(included("sql", "preference", ".sql").read_text() + "\n-- mine")
    assert reader_of(own) is None


def test_no_other_letter_begins_or_ends_markup():
    """Texts are looked at for markup only where their first or last letter may be its, in any case."""
    letters = "".join(chr(code) for code in range(sys.maxunicode + 1))
    assert set(re.findall(r"[<#ahub]", letters, re.IGNORECASE)) == BEGINNINGS
    assert set(re.findall(r"[>\]:ent]", letters, re.IGNORECASE)) == ENDINGS
    for speaker in (
        "<s> [INST]",
        "### Instruction",
        "Human: assistant:",
        "below is an instruction that describes ### ",
    ):
        assert markup_of_prompt(speaker) and speaker[0] in BEGINNINGS
    for ending in ("</s>", "[/INST]", "human:", "### Response", "### input", "### instruction"):
        assert markup_of_answer(f"x\n{ending}") and ending[-1] in ENDINGS


def made_of(rows, tmp_path):
    """What the stage makes of a shard's rows of the scan: the bytes of its files, and its counts."""
    made = prompts.make(rows, Prompts(), Context(seed=0))
    digests = {}
    for table, of_table in made.tables.items():
        write_parquet(of_table, tmp_path / table)
        digests[table] = sha256_file(tmp_path / table)
    return digests, made.counts


def test_prompts_of_one_row_are_made_as_all_others_are(mixed, tmp_path, monkeypatch):
    """Files of the same bytes, also of rows that stand there again, say more, are refused, or are none."""
    config = Prompts(source=(str(mixed),), format="preference")
    reader = RowReader(config, included("sql", "preference", ".sql"), lambda file: None)
    tables = [reader.table(batch) for batch in raw.batches(raw.Part("mixed", mixed), config.max_row_bytes)]
    rows = pa.concat_tables(tables)
    held_out = pa.array(["test"] * 30, pa.string())
    again = rows.slice(10, 30)
    again = again.set_column(again.column_names.index("split"), "split", held_out)
    for given in (
        rows,
        pa.concat_tables([rows.slice(0, 90), again]),
        rows.filter(rows["reason"].is_valid()),
        rows[:0],
    ):
        is_lone = lone_rows.are_lone(given)
        assert is_lone.sum() < max(1, len(given))
        fast = made_of(given, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(lone_rows, "are_lone", lambda batch: np.zeros(len(batch), bool))
            assert made_of(given, tmp_path) == fast
    assert lone_rows.are_lone(rows).any()
