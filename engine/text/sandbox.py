"""A Jinja environment for templates that may be anybody's: they render, and can do nothing else.

- Jinja's own sandbox keeps a template from whatever could run code or change what it is given.
- What a template makes is weighed (engine/text/weights.py) and what it takes is timed, so that none hangs or
  eats the memory: a rendering that goes beyond is a LimitExceeded.
- Whatever a rendering raises is an error of the template. Jinja, its filters and Python's own types raise
  many kinds, a MemoryError and a RecursionError included, so none is named here.
- The compiler works out what does not change in a template, and so runs a part of it: it is limited likewise.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.filters import do_sum, make_attrgetter
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from engine.text import weights
from engine.text.time_limit import OutOfTime, limited

SECONDS = 10.0  # of one rendering
_OF_A_PART = 8  # bytes: its place in a list
_SHORT = 1000  # items of a list
_LONGEST = 1 << 20  # characters of a template
_SHOWN = 10_000  # letters of an error, which may hold a whole value


class LimitExceeded(Exception):
    """A rendering takes too long or makes too much."""


class TimeExceeded(LimitExceeded):
    """A rendering takes too long."""


class Refused(Exception):
    """A template ends in an error; the message says which."""


class _Code(CodeGenerator):
    """The code of a template, in which whatever builds a value of others has it weighed."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated(context, (")
        for item in node.nodes:
            self.visit(item, frame)
            self.write(", ")
        self.write("))")

    @optimizeconst
    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        """`a + b + c` as one call: a sum of texts is what most templates do most."""
        summands: list[nodes.Expr] = []
        left: nodes.Expr = node
        while isinstance(left, nodes.Add):
            summands.append(left.right)
            left = left.left
        self.write("environment.added(")
        for summand in [left, *reversed(summands)]:
            self.visit(summand, frame)
            self.write(", ")
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._weighed(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._weighed(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._weighed(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.new_buffer()")

    def _weighed(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


class _Buffer(list[str]):
    """The texts of a block or a macro, counted while they come."""

    def __init__(self, environment: "Sandbox"):
        super().__init__()
        self._environment = environment

    def append(self, text: str) -> None:
        super().append(self._environment.counted(text))

    def extend(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.append(text)


class _Namespace(Namespace):
    """Jinja's, which is weighed before it is written out: one may hold another several times."""

    def __repr__(self) -> str:
        weights.check_weight(weights.weight(self))
        return super().__repr__()


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Several threads may render by it."""

    code_generator_class = _Code
    intercepted_binops = frozenset({"*", "**", "%", "/", "//"})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, finalize=_checked, **options)
        self.globals["namespace"] = _Namespace
        self._made = threading.local()  # .weight: of all that this thread's rendering made
        self.filters["sum"] = _sum
        for name, function in self.filters.items():
            self.filters[name] = self._limited_filter(name, function)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """A filter more, or another in the place of one of Jinja's."""
        self.filters[name] = self._limited_filter(name, function)

    def compiled(self, text: str) -> jinja2.Template:
        """The template. Raises jinja2.TemplateSyntaxError where it is none, LimitExceeded where that takes
        too long to see."""
        if len(text) > _LONGEST:
            raise LimitExceeded(f"it has {len(text):,} characters, more than {_LONGEST:,}")
        try:
            return self._within_limits(lambda: self.from_string(text))
        except (jinja2.TemplateSyntaxError, LimitExceeded):
            raise
        except Exception as error:  # Python compiles what Jinja has made of it
            raise jinja2.TemplateSyntaxError(f"it cannot be compiled: {_said(error)}", 1) from None

    def rendered(self, template: jinja2.Template, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """What the template renders of these values, and the variables that it sets at its top.

        Raises jinja2.UndefinedError for a value that is missing, Refused for any other error of the template,
        LimitExceeded where it takes more than SECONDS or makes too large a value."""

        def render() -> tuple[str, dict[str, Any]]:
            context = template.new_context(dict(values))
            text = self.concat(template.root_render_func(context))
            return text, context.get_exported()

        try:
            return self._within_limits(render)
        except (LimitExceeded, jinja2.UndefinedError):
            raise
        except Exception as error:
            raise Refused(_said(error)) from None

    def _within_limits(self, work: Callable[[], Any]) -> Any:
        self._made.weight = 0
        try:
            return limited(work, SECONDS)
        except OutOfTime as error:
            raise TimeExceeded(str(error)) from None
        except weights.TooLarge as error:
            raise LimitExceeded(str(error)) from None
        except MemoryError:
            raise LimitExceeded("it needs more memory than there is") from None

    def new_buffer(self) -> _Buffer:
        """Where the texts of a block or a macro are gathered."""
        return _Buffer(self)

    def weighed(self, value: Any) -> Any:
        """The value. Raises TooLarge if it is too large, or if all that this rendering made is."""
        if isinstance(value, str) and len(value) < weights.SMALL:
            return value
        weights.check_weight(weights.weight(value))
        return self.counted(value)

    def counted(self, value: Any) -> Any:
        """The value. Raises TooLarge if all that this rendering made is too large."""
        weights.check_number(value)
        made = getattr(self._made, "weight", 0) + weights.own_weight(value)
        self._made.weight = made
        if made > weights.MOST_OF_ALL:
            raise weights.TooLarge(f"it makes values of more than {weights.MOST_OF_ALL >> 20} MiB in all")
        return value

    def concat(self, parts: Iterable[str]) -> str:
        """The text of a template, a block or a macro."""
        total = 0
        kept: list[str] = []
        for part in parts:
            total += len(part) + _OF_A_PART
            if total > weights.MOST:
                weights.check_weight(total)
            kept.append(part)
        return self.weighed("".join(kept))

    def concatenated(self, context: Context, items: tuple[Any, ...]) -> str:
        """What `~` makes."""
        weights.check_weight(weights.weight(items))
        join = markup_join if context.eval_ctx.autoescape else str_join
        return self.weighed(join(items))

    def added(self, value: Any, *others: Any) -> Any:
        """What `+` makes, from left to right."""
        for other in others:
            value = value + other
            if isinstance(value, str) and len(value) < weights.SMALL:
                continue
            # A long list is looked through; what a short one holds was when it was made.
            is_short_list = isinstance(value, list | tuple) and len(value) < _SHORT
            value = self.counted(value) if is_short_list else self.weighed(value)
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        weights.check_operation(operator, left, right)
        return self.weighed(self.binop_table[operator](left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # str.format is wrapped by Jinja's sandbox
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int):
            given = (*args, *kwargs.values())
            name = method.__name__
            if name == "join" and len(args) == 1:
                args = (weights.joined(args[0], owner),)
            elif name in ("format", "format_map"):
                weights.check_format(str(owner), "{", [*args, *kwargs.values()])
            elif given or name in weights.SPLITTING:
                weights.check_growth(name, owner, given)
        return __self.weighed(super().call(__context, __obj, *args, **kwargs))

    def _limited_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose outcome is weighed, and where it could be far larger than its value also before."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        needs_no_look = name not in weights.LOOKED_AT

        @functools.wraps(function)
        def limited_filter(*args: Any, **kwargs: Any) -> Any:
            if needs_no_look and len(args) == first + 1 and not kwargs and isinstance(args[first], str):
                return self.weighed(function(*args))
            if len(args) > first:
                value = args[first]
                given = (*args[first + 1 :], *kwargs.values())
                if name == "join":
                    separator = given[0] if given else ""
                    args = (*args[:first], weights.joined(value, separator), *args[first + 1 :])
                elif name not in weights.OF_ITEMS:
                    _checked(value)
                if name == "format":
                    weights.check_format(str(value), "%", list(given))
                elif given or name in weights.LOOKED_AT:
                    weights.check_growth(name, value, given)
            made = function(*args, **kwargs)
            return self.weighed(made) if isinstance(made, str) else self.counted(made)

        return limited_filter


@jinja2.pass_environment
def _sum(environment: Sandbox, items: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    """Jinja's filter; where it joins lists, each step copies what there is, so the steps are counted."""
    if isinstance(start, list | tuple):
        if attribute is not None:
            items = map(make_attrgetter(environment, attribute), items)
        for item in items:
            start = environment.counted(start + item)
        return start
    return do_sum(environment, items, attribute, start)


def _checked(value: Any) -> Any:
    """A value that is to be written out. Raises TooLarge where that would be too much."""
    if not isinstance(value, str):
        weights.check_weight(weights.weight(value))
    return value


def _said(error: Exception) -> str:
    """What an error says; its name where it says nothing."""
    return str(error).strip()[:_SHOWN] or type(error).__name__
