"""Options that commands share, the sections of the help, and messages for invalid options."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from panic_tda import parameters, records
from panic_tda.cli import completion, terminal
from panic_tda.cli.completion import LATEST as LATEST
from panic_tda.errors import WrongUsage
from panic_tda.outputs import require_different
from panic_tda.paths import expand_home, find_database_file
from panic_tda.wording import escape_control_characters

DEFAULT_DATABASE = "db/trajectory_data.sqlite"
BACKENDS = ("auto", "cuml", "sklearn", "tiled")
"""Listed here so that --help imports no backend; a test compares the list with the registry."""
HELP_NAMES = ["-h", "--help"]
_MOST_VALUES = 100_000
_OWN, _COMMON = "Options", "Common options"
_VERBOSITY = "panic_tda.verbosity"
_DATABASES = ("source", "target", "database")
"""Parameters of commands that name a database."""
_OUTPUTS = ("file", "output")
"""Parameters of commands that name an output file."""


class _Option(click.Option):
    """An option with the section of the help that lists it."""

    def __init__(self, *arguments: Any, section: str = _OWN, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


option = functools.partial(click.option, cls=_Option)
"""`click.option` with the `section` of the help that lists the option."""


class _PathType(click.Path):
    """A path whose leading `~` means the home folder; shells do not expand it everywhere."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a value to a path, with the home folder expanded."""
        try:
            return super().convert(expand_home(value), param, ctx)
        except WrongUsage as error:
            self.fail(str(error), param, ctx)


PATH = _PathType(path_type=Path)
"""The type of all options and arguments that are paths."""
_common_option = functools.partial(option, section=_COMMON)


class Command(click.Command):
    """A command whose help groups the options into sections and ends with an example.

    Parameters
    ----------
    example : str
        Arguments of `panic-tda` in the example.
    """

    def __init__(self, *arguments: Any, example: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                # Click makes --help itself, without a section.
                sections.setdefault(getattr(parameter, "section", _COMMON), []).append(record)
        for name, entries in sections.items():
            with formatter.section(name):
                formatter.write_dl(entries)

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Return the names of the help option, whatever the context says: Click keeps those of the first."""
        return list(HELP_NAMES)

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first line of the help, which is never cut."""
        return (self.help or "").partition("\n")[0].removesuffix(".")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        formatter.write(f"\nExample: panic-tda {self.example}\n")


def command(name: str, *, example: str) -> Callable[[Callable[..., None]], Command]:
    """Return a decorator that makes a command of a function, with an example for its help."""
    return click.command(name, cls=Command, example=example)


class Group(Command, click.Group):
    """A group of commands that also takes common options before the name of the command."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.chapters: dict[str, list[str]] = {}

    def add_chapter(self, title: str, commands: Iterable[click.Command]) -> None:
        """Add commands that the help lists under one title."""
        for command in commands:
            self.add_command(command)
            self.chapters.setdefault(title, []).append(str(command.name))

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command of the command line, or complete a line for a shell."""
        terminal.open_closed_streams()
        if not completion.is_requested():
            terminal.replace_unprintable(sys.stdout)
            try:
                return super().main(*arguments, **settings)
            except OSError as error:
                terminal.end_unwritten(error)
        completion.limit_time()
        try:
            return super().main(*arguments, **settings)
        except Exception:
            # A traceback would appear in the line that the user is typing.
            sys.exit(terminal.EXIT_FAILED)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by chapter, with their summaries in one column."""
        width = max(map(len, self.commands))
        for title, names in self.chapters.items():
            rows = [(name.ljust(width), self.commands[name].get_short_help_str()) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments before the name of the command."""
        ctx.obj = "--json" in args
        with _report_usage_errors(as_json=ctx.obj):
            try:
                return super().parse_args(ctx, args)
            except click.NoSuchOption as error:
                name = error.option_name
                if not any(
                    name in parameter.opts
                    for command in self.commands.values()
                    for parameter in command.params
                ):
                    raise
                hint = f"{name} goes after the name of the command: {ctx.info_name} COMMAND {name} …"
                raise click.UsageError(hint, ctx) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and move the options before its name behind it."""
        name, command, words = super().resolve_command(ctx, args)
        # They precede its own options: Click uses the last of two values.
        return name, command, [*_move_options(ctx), *words]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _report_usage_errors(as_json=ctx.obj):
            return super().invoke(ctx)


def _move_options(group: click.Context) -> Iterator[str]:
    for parameter in group.command.params:
        name = parameter.name
        if name in group.params and group.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = group.params[name]
            if not isinstance(value, bool):
                yield from (parameter.opts[-1], str(value))
            elif value:
                yield parameter.opts[-1]


@contextmanager
def _report_usage_errors(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        message = error.format_message()
        terminal.print_error(type(error).__name__, message, as_json=as_json)
        if (shown := escape_control_characters(message)) != message:
            raise click.UsageError(shown, error.ctx) from error
        raise


def common(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options, and turn its errors into messages and exit codes."""

    @functools.wraps(function)
    def run(*, log_file: Path | None, **options: Any) -> None:
        verbosity = click.get_current_context().meta.get(_VERBOSITY)
        with terminal.exit_codes(as_json=options.get("as_json", False)):
            if log_file is not None:
                require_different(log_file, [options[name] for name in _OUTPUTS if options.get(name)])
            terminal.configure_logging(
                verbose=verbosity == "verbose",
                quiet=verbosity == "quiet",
                log_file=log_file,
                inputs=_list_inputs(options) if log_file is not None else (),
            )
            function(**options)

    return before_commands(run)


def _list_inputs(options: dict[str, Any]) -> list[Path]:
    """Return the files that a command reads, its databases first: the log must not overwrite them."""
    named = [find_database_file(options[name]) for name in _DATABASES if options.get(name)]
    files: list[Path] = [file for file in (*named, options.get("texts")) if file is not None]
    for file in options.get("files", ()):
        files += [file, *sorted(file.glob("*.parquet"))] if os.path.isdir(file) else [file]
    return files


def before_commands(function: Callable[..., None]) -> Callable[..., None]:
    """Give a function the options that may stand before the name of a command too."""
    # -q and -v share one value: the last of them counts.
    verbosity = functools.partial(_common_option, is_flag=True, expose_value=False, callback=_store_verbosity)
    for decorate in (
        _common_option(
            "--log-file", type=PATH, help="Also write the full log to this file.  [default: none]"
        ),
        verbosity("-q", "--quiet", help="Log warnings and errors only."),
        verbosity("-v", "--verbose", help="Log everything, tracebacks included."),
        _common_option(
            "--db",
            "database",
            envvar="PANIC_TDA_DB",
            default=DEFAULT_DATABASE,
            show_default=True,
            show_envvar=True,
            shell_complete=completion.files,
            help="Path of an SQLite file, or an SQLAlchemy URL.",
        ),
    ):
        function = decorate(function)
    return function


def _store_verbosity(context: click.Context, option: click.Parameter, is_set: bool) -> None:
    # Click calls this in the order of the command line; a command's context shares `meta` with its group.
    if is_set:
        context.meta[_VERBOSITY] = option.name


version = click.version_option(package_name="panic_tda", cls=_Option)
json_output = _common_option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
clustering = functools.partial(click.argument, shell_complete=completion.ids_or_latest)
"""An argument that names a clustering: an id, the beginning of one, or `LATEST`."""
reference = clustering("reference", metavar="[ID|latest]", default=LATEST)
"""Argument with the clustering that a command reads."""
yes = option("--yes", is_flag=True, help="Do not ask.")
core_probability = option(
    "--core-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Lowest membership probability of a core step; at 0 all members are core steps.",
)
force = option("--force", is_flag=True, help="Replace an existing file, once the new one is complete.")


def limit(default: int, text: str) -> Callable[..., Any]:
    """Return the option `--limit` with the largest number of things that are listed; 0 lists all."""
    return option("--limit", type=click.IntRange(min=0), default=default, show_default=True, help=text)


def model(text: str, *, default: str = "the only clustered model") -> Callable[..., Any]:
    """Return the option that names an embedding model; `default` describes the result without it."""
    return _model(callback=_validate_model_name, help=f"{text}  [default: {default}]")


def models(text: str, **settings: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the parameter `models`: arguments, and the values of a repeatable `--model`."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*, models: tuple[str, ...], named_models: tuple[str, ...], **options: Any) -> None:
            function(models=(*models, *named_models), **options)

        named = _model(
            "named_models",
            multiple=True,
            callback=_validate_model_names,
            help=f"{text}  [default: all]",
            **settings,
        )
        argument = click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.models)
        return argument(named(run))

    return decorate


_model = functools.partial(option, "--model", metavar="NAME", shell_complete=completion.models)
MIN_CLUSTER_SIZE = "Smallest cluster: a number of rows, or a share of the rows such as 0.1%."
MIN_SAMPLES = (
    "Number of neighbours for the core distance, including the point itself.  "
    f"[default: {parameters.MIN_SAMPLES}]"
)

downsample = functools.partial(
    option,
    "--downsample",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Keep every N-th output of each run.",
)
skip_invalid = functools.partial(
    option, "--skip-invalid", is_flag=True, help="Leave out invalid vectors instead of failing."
)
metric = functools.partial(
    option,
    "--metric",
    type=click.Choice(parameters.METRICS),
    default=records.COSINE,
    show_default=True,
    help="Cosine ignores the lengths of vectors.",
)
STORED_SAMPLES = "up to the stored neighbours (see cluster-embeddings --keep-neighbours)"


def values(read: Callable[[str], Any]) -> Callable[..., list[Any] | None]:
    """Return the callback of an option that takes comma-separated numbers and ranges `FROM:TO:STEP`.

    A range includes FROM, and TO if a whole number of steps reaches it.

    Parameters
    ----------
    read : callable
        Parses a number; raises ValueError for other text.
    """

    def parse(_context: click.Context, _option: click.Parameter, text: str | None) -> list[Any] | None:
        if text is None:
            return None
        try:
            parts = (_expand_range(word, read) if ":" in word else [read(word)] for word in text.split(","))
            return [value for part in parts for value in part]
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(
                "numbers such as 0.2,0.3 or FROM:TO:STEP such as 0.2:0.6:0.05 are allowed; "
                f"got {text!r} ({error})"
            ) from error

    return parse


def _expand_range(text: str, read: Callable[[str], Any]) -> list[Any]:
    ends = [read(word) for word in text.split(":")]
    if len(ends) != 3:
        raise ValueError("a range has three parts, FROM:TO:STEP")
    first, last, step = ends
    if not step > 0 or not last >= first or not (last - first) / step < _MOST_VALUES:
        raise ValueError("FROM must not be above TO, and STEP must be positive and not too small")
    # 0.1 + 0.1 + 0.1 is not 0.3: steps are multiplied, and the values are rounded.
    return [round(first + number * step, 12) for number in range(int((last - first) / step + 1e-9) + 1)]


def _validate_model_names(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        _validate_model_name(context, option, name)
    return names


def _validate_model_name(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    if name is not None and not name.strip():
        raise click.BadParameter(f"a model's name has more than spaces, such as Nomic; got {name!r}")
    # Python decodes invalid bytes of the command line as surrogates.
    if name is not None and not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise click.BadParameter(f"a model's name is text in UTF-8, such as Nomic; got {name!r}")
    return name
