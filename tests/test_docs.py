"""The pages: what they name is there, what they show is run or parsed, and no part of them is old."""

import ast
import dataclasses
import functools
import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import engine.cli
import pipelines.run
import trainer.cli
from engine.pages import pages
from engine.part import Part
from engine.ready import ready
from pipelines.docs.key_tables import meaning_of
from pipelines.docs.written import PAGES as WRITTEN
from pipelines.docs.written import as_it_should_be
from schemas.extensions import files
from schemas.recipe import load, parse
from schemas.scorers import SCORERS
from schemas.sections import SECTIONS, Lora, Train
from schemas.tables import TABLES
from tests.conftest import RECIPE, ROOT
from tests.pages import FOLDER, PAGES, README, Block, blocks, commands, printed, prose, starts
from trainer.losses import NAMES, choose, loss_module, sft

PROGRAMS = {"engine": engine.cli.main, "trainer": trainer.cli.main, "trainer.cli": trainer.cli.main}
TOPS = ("engine/", "trainer/", "schemas/", "pipelines/", "tests/", ".github/")
# Blocks whose commands cannot be run here, by how they begin, and why. They are parsed all the same.
NOT_RUN = {
    "#!/bin/bash\n#SBATCH --array": "wants Slurm",
    "#!/bin/bash\n#SBATCH --nodes": "wants Slurm; tests/trainer/test_launch.py runs it on stand-ins",
    "torchrun --nnodes 4": "wants four machines",
    "ray start": "wants a cluster; tests/engine/test_ray.py runs such a command",
    "pip install 'prefmill[object-store]'": "wants an account; tests/reliability runs a server",
    "python -m pipelines.evidence": "takes hours; tests/pipelines/test_evidence.py tries a claim",
    "engine sql runs/evidence": "wants what takes hours; tests/pipelines/test_evidence.py asks its own",
    'eval "$(_ENGINE_COMPLETE': "is for one's own shell; tests/engine/test_completion.py asks bash",
}


@pytest.fixture(autouse=True)
def help_as_users_see_it(monkeypatch):
    """click keeps the help option that a command had first: where a test ran it alone, without `-h`."""
    for group in (engine.cli.main, trainer.cli.main):
        for name in group.list_commands(click.Context(group)):
            monkeypatch.setattr(group.get_command(click.Context(group), name), "_help_option", None)


# --- written from the code ---


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_what_is_written_from_the_code_is_new(page):
    assert page.read_text() == as_it_should_be(page), "python -m pipelines.docs --write"


def test_an_old_part_is_found_and_written_anew(tmp_path, monkeypatch):
    from pipelines.docs import __main__ as docs

    page = tmp_path / "losses.md"
    page.write_text("# Mine\n\n<!-- generated: losses -->\nold\n<!-- end -->\n\nand more\n")
    monkeypatch.setattr(docs, "PAGES", (page,))
    assert CliRunner().invoke(docs.main).exit_code == 1 and "old" in page.read_text()
    assert CliRunner().invoke(docs.main, ["--write"]).exit_code == 0
    text = page.read_text()
    assert (
        text.startswith("# Mine\n") and text.endswith("<!-- end -->\n\nand more\n") and "\nold\n" not in text
    )
    assert CliRunner().invoke(docs.main).exit_code == 0


def test_every_key_has_a_meaning():
    kinds = [*SECTIONS.values(), Lora, sft.Config, *(loss_module(name).Config for name in NAMES)]
    without = [
        f"{kind.title()} {field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if not meaning_of(kind, field.name)
    ]
    assert not without


def test_the_help_in_the_page_is_the_commands_own():
    page = (FOLDER / "commands.md").read_text()
    for program, group in (("engine", engine.cli.main), ("trainer", trainer.cli.main)):
        names = group.list_commands(click.Context(group))
        assert re.findall(rf"^### {program} (\w+)$", page, re.MULTILINE) == names
        for name in names:
            said = CliRunner().invoke(group, [name, "--help"], prog_name=program, terminal_width=100).output
            assert said.strip() in page


# --- the pages as such ---


def test_every_page_is_in_the_index_by_its_own_words():
    index = (FOLDER / "index.md").read_text()
    for page in FOLDER.glob("*.md"):
        title, what, *_ = page.read_text().split("\n\n")
        assert title.startswith("# ") and "\n" not in what and len(what) <= 110
        assert page.stem == "index" or f"- [{page.stem}]({page.name}): {what}\n" in index


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_fit(page):
    """But for tables, and lines that are written from the code."""
    by_hand = re.sub(r"<!-- generated.*?<!-- end -->", "", prose(page), flags=re.DOTALL)
    long = [line for line in by_hand.splitlines() if len(line) > 110 and not line.startswith(("|", "- ["))]
    assert not [line for line in long if "ray job submit" not in line]  # one command, in a sentence


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), target
        assert not anchor or anchor in slugs(place), target


# --- blocks ---


def check_command(words: list[str]) -> dict[str, object]:
    """A command line as click reads it: the command is there, and so are its options and every key of --set.

    Gives its parameters."""
    if words[0] == "pipelines.run":
        command, arguments = pipelines.run.main, words[1:]
    else:
        found = PROGRAMS[words[0]].get_command(click.Context(PROGRAMS[words[0]]), words[1])
        assert found is not None, words
        command, arguments = found, words[2:]
    given = command.make_context(words[0], arguments, resilient_parsing=False).params
    load(RECIPE, given.get("settings", ()))
    return given


def lines_of(block: Block) -> list[str]:
    if block.language == "console":
        return [entry.command for entry in printed(block)]
    return commands(block)


@pytest.mark.parametrize("block", blocks("sh", "bash", "console", "yaml"), ids=str)
def test_commands_are_there_with_their_options_and_keys(block):
    for line in lines_of(block):
        line = re.sub(r"::\$\w+", "::16", line)  # how many parts there are, and which of them
        for words in starts(re.sub(r"\$\w+", "3", line)):
            given = check_command(words)
            if given.get("part"):
                assert Part.of(given["part"]).is_part


def test_a_command_that_is_not_there_is_noticed():
    for line in (
        "engine precomputed dpo",
        "engine sql runs/hh --fast",
        "trainer run dpo -o x --set train.beta=1",
    ):
        with pytest.raises((AssertionError, click.UsageError, ValueError)):
            (words,) = starts(f"{line} ")
            check_command(words)


def test_schedulers_are_given_commands():
    """The scripts can be read, and start what there is."""
    import yaml

    for block in blocks("bash"):
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    kinds = [yaml.safe_load(block.text) for block in blocks("yaml")]
    assert {"kind", "run"} <= {key for kind in kinds for key in kind}
    started = [
        words for block in blocks("bash", "yaml") for line in commands(block) for words in starts(line)
    ]
    assert len(started) == 13


def test_what_is_not_run_has_a_reason():
    """A block of `sh` is run (test_readme.py); one of `bash` is not, and the table says why."""
    for block in blocks("bash"):
        assert [begin for begin in NOT_RUN if block.text.startswith(begin)], block
    texts = [block.text for block in blocks("bash")]
    for begin in NOT_RUN:
        assert any(text.startswith(begin) for text in texts), f"{begin}: no such block"


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_recipes_in_pages_are_read(block):
    recipe = parse(tomllib.loads(block.text), str(block))
    for section in recipe.sections.values():
        section.check_with_extensions()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_in_pages_runs(block):
    compile(block.text, str(block), "exec")
    names: dict[str, object] = {"__name__": "trainer.losses.mine"}
    if "@dataclass" not in block.text:  # a loss is run in a copy of the project: tests/trainer/test_losses.py
        exec(block.text, names)
        assert names["score"]([], "so it is 12", "12") == 1.0


def test_every_block_is_of_a_kind_that_is_looked_at():
    assert {block.language for block in blocks()} == {
        "sh",
        "bash",
        "console",
        "yaml",
        "toml",
        "python",
        "text",
    }


# --- names ---


def named(page: Path) -> list[str]:
    """What stands as code in a page's sentences and tables, but for what is written from the code."""
    by_hand = re.sub(r"<!-- generated.*?<!-- end -->", "", prose(page), flags=re.DOTALL)
    return re.findall(r"`([^`]+)`", by_hand)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    for name in named(page):
        path = (
            name.split()[-1] if name.startswith("python tests/") else name.removeprefix("python ").split()[0]
        )
        if path.startswith(TOPS) and "mine" not in path:
            assert list(ROOT.glob(path.removesuffix("/"))), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_names_are_there(page):
    for name in named(page):
        words = name.split()
        if words[0] in PROGRAMS and len(words) > 1:
            is_general = words[1].isupper() or words[1] == "…"  # engine COMMAND
            group = PROGRAMS[words[0]]
            command = group.get_command(click.Context(group), words[1])
            assert is_general or command, name
            options = {option for each in command.params for option in each.opts} if command else set()
            assert {word.partition("=")[0] for word in words[2:] if word.startswith("-")} <= options, name


def keys_of(section: str) -> set[str]:
    """The keys of a section, and in [train] its tables."""
    keys = {field.name for field in dataclasses.fields(SECTIONS[section])}
    return keys | {*NAMES, "sft", "lora"} if section == "train" else keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_that_a_page_names_are_there(page):
    for name in named(page):
        found = re.match(r"(?:--set )?\[?(\w+)\.(\w+)(?:\.(\w+))?", name)
        if not found or found[1] not in SECTIONS or found[2] in ("json", "metadata"):  # a file, a column
            continue
        assert found[2] in keys_of(found[1]), f"{name}: [{found[1]}] has no such key"
        if found[1] == "train" and found[3] and found[2] in NAMES:
            choose(Train(loss=found[2], options={found[2]: {}}))
            assert found[3] in {field.name for field in dataclasses.fields(loss_module(found[2]).Config)}
    for section in re.findall(r"`\[(\w+)\]`", prose(page)):
        assert section in SECTIONS or section == "turn", f"[{section}]"  # [turn] is a word of formats' SQL


def table_names(page: str, heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    (below,) = re.findall(
        rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", (FOLDER / page).read_text(), re.M | re.S
    )
    cells = [line.split("|")[1] for line in below.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_lists_of_names_are_whole():
    def marked(mark: str) -> set[str]:
        return {path.stem for path in files("sql", ".sql") if path.read_text().startswith(mark)}

    assert table_names("losses.md", "Which one") == set(NAMES)
    assert table_names("data.md", "Formats") == marked("-- format:")
    assert table_names("sql.md", "Ready queries") == set(ready())
    assert table_names("sql.md", "Tables and views") == {*TABLES, "pairs_text", "metrics"}
    assert table_names("recipes.md", "Recipes that ship") == {path.stem for path in files("recipes", ".toml")}
    assert table_names("judging.md", "Judging") == set(SCORERS)
    making = (FOLDER / "making.md").read_text()
    assert {name for name in marked("-- pairs:") if f"`{name}`" in making} == marked("-- pairs:")
    assert (
        f"{len(NAMES)} losses" in README.read_text()
        and f"| {len(NAMES)}, and" in (FOLDER / "comparison.md").read_text()
    )


@functools.cache
def sentences() -> str:
    """All texts in the sources, one below the other."""
    texts: list[str] = []
    for package in ("engine", "trainer", "schemas"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_errors_that_a_page_explains_are_said_somewhere():
    explained = re.findall(r"^\| `([^`]+)`", (FOLDER / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(explained) > 12
    assert not [text for text in explained if text not in sentences()]


# --- engine docs ---


def docs(*words: str) -> str:
    done = CliRunner().invoke(engine.cli.main, ["docs", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_engine_docs_lists_shows_and_finds_the_pages():
    listed = docs().splitlines()
    assert {line.split()[0] for line in listed[:-2]} == {page.stem for page in FOLDER.glob("*.md")}
    assert listed[0].startswith("index ") and listed[1].split()[0] == "concepts"
    assert docs("losses") == (FOLDER / "losses.md").read_text() + "\n"
    assert docs("losses.md", "--path") == f"{FOLDER / 'losses.md'}\n" and docs("--path") == f"{FOLDER}\n"


def test_engine_docs_names_the_nearest_page():
    done = CliRunner().invoke(engine.cli.main, ["docs", "lossse"])
    assert done.exit_code == 1 and "no page 'lossse'; did you mean 'losses'?" in done.output


def test_a_page_on_a_terminal_names_commands_where_others_have_links():
    index = pages()["index"].for_terminal()
    assert "- `engine docs losses`: Every loss" in index and ".md" not in index
    losses = pages()["losses"].for_terminal()
    assert "<!--" not in losses and "(https://arxiv.org/abs/2305.18290)" in losses


def test_a_page_on_a_terminal_has_no_colours_but_ours():
    from engine.commands.docs import _rendered

    shown = _rendered(
        "# Title\n\n`code` and \x1b]0;owned\x07 and \u202etext\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert (
        "Title" in plain
        and "\\x1b]0;owned\\x07" in plain
        and "\\u202e" in plain
        and plain.isprintable() is False
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", plain)
