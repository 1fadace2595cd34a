"""`engine init`: a recipe for the data, the model and the machine that the user has."""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.commands import settings_option
from schemas.errors import UserError
from schemas.screen import say
from schemas.store import LocalStore

if TYPE_CHECKING:
    from engine.init.data_look import DataLook
    from engine.init.judges import Judge
    from engine.init.methods import Method
    from engine.init.model_look import ModelLook

_NO_DEFAULT = ""


@click.command("init")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("recipe.toml"),
    show_default=True,
    help="File to write.",
)
@click.option("--data", metavar="FILE", help="Pairs or prompts: a file, a folder, a glob, a data set's name.")
@click.option("--model", metavar="MODEL", help="A folder in Hugging Face form, or a name on the hub.")
@click.option("--method", metavar="LOSS", help="dpo, ipo, rpo, sr_dpo, sr_ipo, bmc, or another loss.")
@click.option(
    "--start",
    type=click.Choice(("given", "prompts")),
    help="Pairs as the data gives them, or prompts alone, which the model answers.",
)
@click.option("--judge", metavar="JUDGE", help="Who rates: self, MODEL, reward:MODEL, http://host/v1.")
@click.option(
    "--judge-model", default="", metavar="NAME", help="The name that the judge's server knows it by."
)
@settings_option("section.key=value, written over what is found; may be given several times.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--list", "as_list", is_flag=True, help="Show the recipes that ship, and write none.")
def command(
    output: Path,
    data: str | None,
    model: str | None,
    method: str | None,
    start: str | None,
    judge: str | None,
    judge_model: str,
    settings: tuple[str, ...],
    force: bool,
    as_list: bool,
) -> None:
    """Write a recipe for what you have: your data, your model and the memory of this machine are looked at.

    What no option says is asked for on a terminal; elsewhere it takes its default. Every value that matters
    has a comment. No model is loaded or fetched, and nothing is run. A data set of the Hub is fetched.

    \b
    Example:
      engine init --data hh-harmless.jsonl.gz --model stories260K
      engine init --list
    """
    if as_list:
        _list()
        return
    _check_output(output, force)
    try:
        _write(output, _Answers(data, model, method, start, judge, judge_model), settings)
    except click.Abort:
        raise KeyboardInterrupt from None  # said as everywhere: what is kept


class _Answers:
    """What the user wants: from the options, or asked for."""

    def __init__(self, data: str | None, model: str | None, method: str | None, *rest: str | None) -> None:
        self._data, self._model, self._method = data, model, method
        self._start, self._judge, self._judge_model = rest
        self._asks = sys.stdin.isatty() and sys.stdout.isatty()

    def data(self) -> str:
        return self._answer(self._data, "--data", "Your data: a file of pairs or prompts")

    def model(self) -> str:
        return self._answer(self._model, "--model", "Your model: a folder, or a name on the hub")

    def method(self) -> "Method":
        from engine.init.methods import PAPERS, method_of

        question = f"Method: {', '.join(PAPERS)}, or another loss"
        return method_of(self._answer(self._method, "--method", question, "dpo"))

    def start(self, data: "DataLook") -> str:
        """given where the data has pairs, and nobody wants it otherwise."""
        usual = "given" if data.pairs or (data.several and self._judge) else "prompts"
        if usual == "prompts" and self._start is None:
            return usual
        question = "Start from the pairs that are given, or from the prompts: given, prompts"
        start = self._answer(self._start, "--start", question, usual)
        if start not in ("given", "prompts"):
            raise UserError(f"--start {start}: expected given or prompts")
        return start

    def judge(self, start: str) -> "Judge | None":
        from engine.init.judges import SELF, judge_of

        if start == "given" and self._judge is None and not self._judge_model:
            return None
        question = "Judge of the samples: self, a model's folder or name, or a server's address"
        word = self._answer(self._judge, "--judge", question, SELF)
        name = self._judge_model or ""
        if word.startswith("http") and not name and self._asks:
            name = self._answer(None, "--judge-model", "The judge's name on the server")
        return judge_of(word, name)

    def _answer(self, given: str | None, option: str, question: str, usual: str = _NO_DEFAULT) -> str:
        if given is not None:
            return given
        if self._asks:
            return str(click.prompt(question, default=usual or None)).strip()
        if usual == _NO_DEFAULT:
            raise UserError(f"{option} is missing, and there is no terminal to ask on: {question}")
        return usual


def _write(output: Path, answers: _Answers, words: tuple[str, ...]) -> None:
    from engine.init import data_look, model_look
    from engine.init.compose import Wish, check_data, text_of
    from engine.init.memory import asked_of, fit, missing_packages, this_machine
    from engine.init.settings import of_section, settings_of
    from engine.init.train_text import optimizer_of
    from schemas.recipe import load_text

    settings = settings_of(words)
    source = _absolute(answers.data())
    data = data_look.look_at(source, of_section("prompts", settings))
    _say_all("data", data_look.lines_about(data))
    model = model_look.look_at(answers.model())
    _say_all("model", model_look.lines_about(model))
    method = answers.method()
    start = answers.start(data)
    judge = answers.judge(start)
    check_data(data, start, judge is not None)
    machine = this_machine(str(settings.get("model.device", "auto")))
    found = fit(model, asked_of(settings, optimizer_of(method), machine), machine)
    _say_all("memory", found.why)
    commands = _commands(output, found.ranks)
    in_head = (f"engine plan {shlex.quote(str(output))}", *commands)
    wish = Wish(source, data, model, method, start, judge, found, settings, in_head, _rounds(output))
    text = text_of(wish)
    load_text(text.encode(), str(output))
    place = output.absolute()
    LocalStore(place.parent).put(place.name, text.encode())
    _say_remarks(start, judge, model)
    if not found.fits:
        say("even so it is more than there is here: a machine with more memory, or a smaller model")
    packages = missing_packages(found.way, [name for name in ("peft", "bitsandbytes") if _is_there(name)])
    if packages:
        say(f'what this recipe needs and is not installed: pip install "prefmill[{packages}]"')
    say(f"{output}: {method.title}, from {'given pairs' if start == 'given' else 'prompts'}; next:")
    for line in commands:
        say(f"  {line}")


def _check_output(output: Path, force: bool) -> None:
    """Raise UserError where the recipe cannot be written there, or not named in a command of one line."""
    from engine.init.toml_text import can_be_seen

    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise UserError(f"-o {output}: the name is not UTF-8, and the recipe says it: take another") from None
    if not can_be_seen(str(output)):
        raise UserError(
            f"-o {output}: the name has a line break or another character that cannot be seen, and the "
            "recipe says it in commands of one line: take another"
        )
    if (output.exists() or output.is_symlink()) and not force:
        raise UserError(f"{output} is there already: name another file by -o, or write over it with --force")
    if not output.absolute().parent.is_dir():
        raise UserError(f"no folder {output.absolute().parent}: make it, or name another file by -o")


def _absolute(source: str) -> str:
    """A path as the recipe has it: in full, so that its run can be made from anywhere; a name as it is."""
    from schemas.data_set_names import data_set_name

    place = Path(source).expanduser()
    if data_set_name(source) and not place.exists():
        return source
    return str(place.absolute())


def _commands(output: Path, ranks: int) -> tuple[str, ...]:
    """What can be run with the recipe. `ranks`: processes that hold the weights together in training."""
    recipe = shlex.quote(str(output))
    run = shlex.quote(f"runs/{output.stem}")
    trainer = "trainer" if ranks == 1 else f"torchrun --nproc-per-node {ranks} -m trainer.cli"
    return (f"engine precompute {recipe} -o {run}", f"{trainer} run {recipe} -o {run}")


def _rounds(output: Path) -> str:
    recipe = shlex.quote(str(output))
    return f"python -m pipelines.run {recipe} -o {shlex.quote(f'runs/{output.stem}-rounds')} --set rounds.n=3"


def _say_remarks(start: str, judge: "Judge | None", model: "ModelLook") -> None:
    """What is worth knowing of the choices."""
    if judge is not None and judge.remark:
        say(f"judge: {judge.remark}")
    if model.has_template:
        return
    if start == "prompts" or (judge is not None and judge.kind == "self"):
        say(
            "the model has no chat template: a base model answers and judges poorly; a chat model does better"
        )


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _say_all(what: str, lines: "list[str] | tuple[str, ...]") -> None:
    for line in lines:
        say(f"{what}: {line}")


def _list() -> None:
    """The recipes that ship, a line each."""
    from engine.init.listing import recipes

    for name, what in recipes().items():
        say(f"{name:<12}{what}")
