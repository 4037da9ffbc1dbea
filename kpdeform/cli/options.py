"""Options of the commands, whose errors take one line.

jsonargparse imports every class that a configuration file names before it checks the type. Because
a file may come from somebody else, the names in it are first compared with kpdeform's own classes.
Classes and functions of your own can be given on the command line only.
"""

from __future__ import annotations

import re
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser

from kpdeform.cli.packaged import packaged
from kpdeform.data.recipe import read_config
from kpdeform.data.transforms import TRANSFORMS
from kpdeform.models.config import FACTORIES, Factory, ModelConfig

_MIXINGS = ("Mix3D", "PolarMix", "RSMix")
_OPTIMIZERS = ("AdamWSetup", "AdamWStepSetup", "SGDSetup")
_LOGGERS = (
    "CSVLogger", "CometLogger", "MLFlowLogger", "NeptuneLogger", "TensorBoardLogger", "WandbLogger",
)  # fmt: skip
CLASSES = (
    *(f"kpdeform.data.transforms.{name}" for name in ("Compose", *TRANSFORMS)),
    *(f"kpdeform.data.mixing.{name}" for name in _MIXINGS),
    *(f"kpdeform.train.{name}" for name in _OPTIMIZERS),
    *(f"lightning.pytorch.loggers.{name}" for name in _LOGGERS),
)
_KEYS_OF_CLASSES = ("class_path", "logger", "mixing", "optimizer", "transforms")
_GROUPS = ("data", "model", "task", "trainer")


def make_parser(description: str) -> ArgumentParser:
    """Makes a parser whose errors :func:`read_options` reports."""
    return ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def read_options(
    parser: ArgumentParser, usual: Collection[str] = (), configs: str | None = None
) -> Any:
    """Parses the command line.

    Args:
        parser: See :func:`make_parser`.
        usual: Names of the options that ``--help`` shows; ``--help all`` shows every option. Empty
            for every option.
        configs: Subfolder of the packaged configurations in which ``--config NAME`` is looked up;
            None if there is no such option.

    Raises:
        ValueError: An option is unknown or wrong, or a configuration file names a class or function
            that is not one of kpdeform's. The message is one line.
        OSError: A file cannot be read.
    """
    arguments = [_with_underscores(argument) for argument in sys.argv[1:]]
    if configs is not None:
        arguments = _with_config_paths(arguments, configs)
    _show_help(parser, arguments, usual)
    groups = {key.partition(".")[0] for key in parser.get_defaults().keys() if "." in key}
    for option, value in _files(arguments, groups):
        check_file(Path(value), () if option == "config" else (option,))
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise ValueError(_one_line(str(error), parser)) from error


def _with_underscores(argument: str) -> str:
    """Spells an option such as --class-ids with underscores, as the arguments of functions are."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument[2:].partition("=")
    return f"--{option.replace('-', '_')}{equals}{value}"


def _show_help(parser: ArgumentParser, arguments: list[str], usual: Collection[str]) -> None:
    """Prints the help and ends the program if the command line asks for it."""
    for argument, following in pairwise([*arguments, ""]):
        if argument not in ("-h", "--help"):
            continue
        if usual and following != "all":
            for action in parser._actions:
                if action.dest not in (*usual, "help"):
                    action.help = SUPPRESS
            parser.epilog = "--help all shows every option."
        parser.print_help()
        raise SystemExit(0)


def _with_config_paths(arguments: Sequence[str], folder: str) -> list[str]:
    """The arguments with the path of the packaged configuration in place of its name."""
    known = {path.stem: path for path in sorted((packaged("configs") / folder).glob("*.yaml"))}
    replaced: list[str] = []
    for argument in arguments:
        option, has_value, value = argument.rpartition("=")
        is_config = option == "--config" if has_value else replaced[-1:] == ["--config"]
        if is_config and value.isidentifier() and not Path(value).is_file():
            if value not in known:
                raise ValueError(
                    f"--config {value}: there is no such file, and no packaged configuration of "
                    f"this name; there are {', '.join(known)}"
                )
            argument = f"{option}{has_value}{known[value]}"
        replaced.append(argument)
    return replaced


def instantiate(parser: Any, options: Any) -> Any:
    """Makes the objects that the options describe.

    Raises:
        ValueError: A value is out of range; the message is one line.
    """
    try:
        return parser.instantiate(options)
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(_one_line(str(error), parser)) from error


def call(function: Callable[..., None], positional: str | None = None) -> None:
    """Calls a function with the options of the command line.

    Args:
        function: Its arguments are the options; its docstring is their help. An argument of type
            ``list`` takes one or more values: ``--keep 2 9``. One of type ``bool`` takes none, and
            is False without its name.
        positional: Name of the argument that stands on the command line without a name.
    """
    parser = make_parser(function.__doc__.partition("\n")[0])
    hints = get_type_hints(function)
    lists = {name: item for name, hint in hints.items() if (item := _item(hint))}
    switches = [name for name, hint in hints.items() if hint is bool]
    helps = {
        param.arg_name: " ".join(param.description.split())
        for param in parse(function.__doc__).params
    }
    for name, item in lists.items():
        if name == positional:
            parser.add_argument(name, nargs="+", type=item, help=helps[name])
        else:
            parser.add_argument(f"--{name}", nargs="+", type=item, help=helps[name])
    if positional is not None and positional not in lists:
        parser.add_argument(positional, type=hints[positional], help=helps[positional])
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true", help=helps[name])
    parser.add_function_arguments(
        function,
        skip={*lists, *switches} | {positional} - {None},
        as_group=False,
        as_positional=False,
    )
    function(**instantiate(parser, read_options(parser)).as_dict())


def _item(hint: Any) -> type | None:
    """Type of the items of ``list[T]`` or ``list[T] | None``; None for other types."""
    for choice in (hint, *get_args(hint)):
        if get_origin(choice) is list:
            return get_args(choice)[0]
    return None


def imported_factory(name: str | None) -> Factory | None:
    """Imports the function that the user has named on the command line; None stays None.

    Raises:
        ValueError: There is no such function.
    """
    if name is None:
        return None
    module, _, rest = name.partition(".")
    try:
        found = import_module(module)
        for part in rest.split("."):
            if not hasattr(found, part):
                import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
    except (AttributeError, ModuleNotFoundError, ValueError) as error:
        raise ValueError(f"--factory {name}: there is no such function ({error})") from error
    if not callable(found):
        raise ValueError(f"--factory {name}: this is no function but a {type(found).__name__}")
    return found


def check_file(path: Path, place: tuple[str, ...] = ()) -> None:
    """Checks that a configuration file names no classes and models but kpdeform's own.

    Args:
        path: YAML file.
        place: Keys of the option that the content of the file belongs to.

    Raises:
        ValueError: It names another class or model, or is not YAML with a mapping.
        OSError: It cannot be read.
    """
    try:
        content = read_config(path)
    except ValueError as error:  # the YAML parser reports errors in several lines
        raise ValueError(" ".join(str(error).split())) from error
    for keys, value in _texts(content, place):
        where = f"{path}: {'.'.join(keys)}"
        if keys in [(group,) for group in ("config", *_GROUPS)]:
            raise ValueError(f"{where} must hold a mapping, got {value!r}")
        if keys == ("model", "factory") and ModelConfig(value).own_factory is None:
            raise ValueError(
                f"{where}: {value!r} is none of kpdeform's own models ({', '.join(FACTORIES)}); "
                "a function of your own is given on the command line, with --model.factory, and "
                "not in a file"
            )
        if keys[-1] in _KEYS_OF_CLASSES and value not in CLASSES:
            raise ValueError(
                f"{where}: {value!r} is none of the classes {', '.join(CLASSES)}; a "
                "class of your own is given on the command line, and not in a file"
            )


def _texts(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields every text in a configuration with the keys that lead to it; keys may have dots."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            # jsonargparse appends to a list if the key ends with a plus sign.
            yield from _texts(value, (*keys, *str(key).rstrip("+").split(".")))
    elif isinstance(content, (list, tuple, set)):
        for value in content:
            yield from _texts(value, keys)
    elif isinstance(content, str):
        yield keys, content


def _files(arguments: Sequence[str], groups: set[str]) -> Iterator[tuple[str, str]]:
    """Yields the options of the command line whose value is a file of further options."""
    for argument, following in pairwise([*arguments, ""]):
        option, has_value, value = argument.partition("=")
        value = value if has_value else following
        name = option.removeprefix("--")
        if option not in ("--config", *(f"--{group}" for group in groups)):
            continue
        # jsonargparse opens "~/file" and "file://..." too: only inline mappings are no paths.
        if value and not value.lstrip().startswith("{"):
            yield name, value


def _one_line(message: str, parser: Any) -> str:
    """Joins the lines of a jsonargparse message, and suggests the option that was meant."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    skipped = (
        "Subtypes:", "Errors:", "Given value type:", "Does not validate", "Expected a <class 'None",
        "Given value: Namespace",
    )  # fmt: skip
    text = " ".join(line for line in lines if line and not line.startswith(skipped))
    text = re.sub(r"Parser key \"([\w.]+)\":", r"\1:", text)
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    missing = re.search(r"arguments are required: (.+)", text)
    if missing:
        flags = {a.dest: a.option_strings[-1] for a in parser._actions if a.option_strings}
        named = [flags.get(name, name) for name in missing[1].split(", ")]
        text = f"these arguments are required: {', '.join(named)}"
    unknown = re.search(
        r"(?:Group '(?P<group>\w+)' does not accept option|Option) '(?P<option>[\w.]+)'"
        r"|unrecognized arguments: --(?P<argument>[\w.]+)",
        text,
    )
    if unknown and "required" not in text:
        group, option = unknown["group"], unknown["option"] or unknown["argument"]
        known = list(parser.get_defaults().keys())
        key = f"{group}.{option}" if group else option
        last = {name.rpartition(".")[2]: name for name in known}
        close = get_close_matches(key, known, 1) or [
            last[name] for name in get_close_matches(key.rpartition(".")[2], last, 1)
        ]
        text += f"; did you mean {close[0]}?" if close else "; --help lists the options"
    return text
