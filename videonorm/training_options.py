"""The options of `videonorm fit | validate | test | predict`, read from the sources that declare them.

jsonargparse makes the same options by importing Lightning, which takes seconds, and its help lists a thousand
known subclasses. This reads signatures and docstrings and imports nothing.
"""

import ast
import gc
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docstring_parser import DocstringStyle, parse

from videonorm.errors import UserError
from videonorm.messages import did_you_mean
from videonorm.options import Parser

OURS = Path(__file__).parent / "training"
# Options of no section, jsonargparse's and those of some of Lightning's commands among them.
WHOLE = (
    *("config", "print_config", "print_shtab", "help", "seed_everything", "ckpt_path"),
    *("weights_only", "verbose", "return_predictions"),
)
OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
SEED = "of all that is random: weights, clips, crops, order"


class Section(NamedTuple):
    """A class whose arguments are the options `--NAME.ARGUMENT`."""

    name: str
    source: Path
    class_name: str
    title: str


class Option(NamedTuple):
    """One argument of a class."""

    name: str
    type: str  # as the source has it
    default: Any
    required: bool
    text: str


def sections() -> list[Section]:
    """Those of the training commands."""
    lightning = importlib.util.find_spec("lightning")
    assert lightning is not None and lightning.submodule_search_locations
    trainer = Path(lightning.submodule_search_locations[0]) / "pytorch" / "trainer" / "trainer.py"
    return [
        Section("data", OURS / "datamodule.py", "VideoDataModule", "data: the clips"),
        Section("model", OURS / "classifier.py", "VideoClassifier", "model: what is trained"),
        Section("last_checkpoint", OURS / "callbacks.py", "LastCheckpoint", "last_checkpoint: to go on from"),
        Section("trainer", trainer, "Trainer", "trainer: Lightning's"),
    ]


def options(section: Section) -> Iterator[Option]:
    """The arguments of a section's class, with what its docstring, or that of `__init__`, says of them."""
    module = ast.parse(section.source.read_text(encoding="utf-8"))
    (of_class,) = (n for n in module.body if isinstance(n, ast.ClassDef) and n.name == section.class_name)
    (init,) = (n for n in of_class.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    texts = {}
    for docstring in (ast.get_docstring(of_class), ast.get_docstring(init)):
        for of_argument in parse(docstring or "", DocstringStyle.GOOGLE).params:
            for name in of_argument.arg_name.split(", "):
                texts[name] = of_argument.description or ""
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    required = len(init.args.args) - 1 - len(init.args.defaults)
    defaults = [*[None] * required, *init.args.defaults, *init.args.kw_defaults]
    for argument, default in zip(arguments, defaults, strict=True):
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        value = ast.literal_eval(default) if default else None
        yield Option(argument.arg, kind, value, default is None, texts.get(argument.arg, ""))


def main(argv: list[str]) -> None:
    """Run a training command, `argv[0]`; its help and a mistyped option are answered here.

    Raises:
        UserError: an option, or a file that it names, cannot be used.
    """
    command, *given = argv
    if {"-h", "--help"} & set(given):
        help_of(command).print_help()
        return
    check_names(given)
    collects = gc.isenabled()
    gc.disable()  # what imports make stays: to look for garbage among it takes a sixth of their five seconds
    try:
        cli = importlib.import_module("videonorm.training.cli")
    finally:
        if collects:
            gc.enable()
    cli.main(argv)


def help_of(command: str) -> Parser:
    """What knows the help of a training command; it parses nothing."""
    parser = Parser(
        prog=f"videonorm {command}",
        usage=f"videonorm {command} -c RECIPE [-c OVERLAY ...] [--KEY VALUE ...]",
        description="A recipe (configs/*.yaml) is complete; an overlay (configs/norm/, configs/conv/) names "
        "what it changes; each of their keys is an option, too. The last one given counts.",
        epilog="Of a class, such as a backbone, a norm or a source of videos:\n"
        f"  videonorm {command} --model.backbone.help videonorm.models.ResNet3d\n"
        "Its arguments are keys below init_args: --model.backbone.init_args.depth 50",
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="recipe or overlay; may be repeated")
    parser.add_argument("--print_config", action="store_true", help="print the resolved recipe and end")
    parser.add_argument("--seed_everything", metavar="INT", help=f"{SEED} (default: 0)")
    use = "go on from" if command == "fit" else "judge"
    of_checkpoint = f"checkpoint to {use}: a file, or last or best of the run folder"
    parser.add_argument("--ckpt_path", metavar="FILE", help=of_checkpoint)
    for section in sections():
        group = parser.add_argument_group(section.title)
        for option in options(section):
            group.add_argument(
                f"--{section.name}.{option.name}",
                metavar=_metavar(option.type, option.default),
                help=f"{_text(option, whole=section.name != 'trainer')} ({_default(option)})".replace(
                    "%", "%%"
                ),
            )
    return parser


def check_names(argv: Sequence[str]) -> None:
    """Refuse a name that is no option, here or in the files of ``-c``, before Lightning is imported for it.

    Raises:
        UserError: it names the option and the nearest one.
    """
    known = _known()
    for number, given in enumerate(argv):
        if match := re.match(r"--(\w+)\.(\w+)", given):
            section, name = match.groups()
            if name not in [*known.get(section, ()), "help"] or section not in known:
                raise UserError(f"--{section}.{name} is no option{_near(section, name, known, '--')}")
        elif (match := re.match(r"--(\w+)(=|$)", given)) and match[1] not in [*known, *WHOLE]:
            hint = did_you_mean(match[1], [*known, *WHOLE], "--")
            raise UserError(f"--{match[1]} is no option{hint}")
        if given in ("-c", "--config") and number + 1 < len(argv):
            _check_file(Path(argv[number + 1]), known)


@cache
def _known() -> dict[str, list[str]]:
    """The names of every section's options."""
    return {section.name: [option.name for option in options(section)] for section in sections()}


def _near(section: str, name: str, known: Mapping[str, Sequence[str]], dashes: str = "") -> str:
    """The nearest option of a section, or that of another which has this very name."""
    if section not in known:
        every = [f"{of}.{one}" for of, names in known.items() for one in names]
        return did_you_mean(f"{section}.{name}", every, dashes)
    elsewhere = [of for of, names in known.items() if name in names]
    if elsewhere:
        return f"; did you mean {dashes}{elsewhere[0]}.{name}?"
    return did_you_mean(name, known[section], f"{dashes}{section}.")


def _check_file(path: Path, known: Mapping[str, Sequence[str]]) -> None:
    """What no key of ``known`` says; a file that is none of YAML is jsonargparse's to refuse."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for section, values in content.items() if isinstance(content, dict) else ():
        if section not in [*known, *WHOLE]:
            hint = did_you_mean(str(section), [*known, *WHOLE])
            raise UserError(f"{section} is no key of a recipe ({path}){hint}")
        for name in values if isinstance(values, dict) and section in known else ():
            if name not in known[section]:
                raise UserError(
                    f"{section}.{name} is no key of a recipe ({path}){_near(section, name, known)}"
                )
    _check_classes(content, "", path)


def _check_classes(value: Any, key: str, path: Path) -> None:
    """Beside ``class_path`` there is ``init_args``, at any depth."""
    if isinstance(value, dict):
        for name, of in value.items():
            if "class_path" in value and name not in OF_A_CLASS:
                hint = did_you_mean(str(name), OF_A_CLASS)
                raise UserError(f"{key}.{name} is no key beside class_path ({path}){hint}")
            _check_classes(of, f"{key}.{name}" if key else str(name), path)
    elif isinstance(value, list):
        for number, of in enumerate(value):
            _check_classes(of, f"{key}[{number}]", path)


def _metavar(kind: str, default: object) -> str:
    """A type in a word or two, as YAML has it."""
    if choices := re.fullmatch(r"Literal\[(.+)\]", kind):
        return "|".join(re.findall(r"['\"](.+?)['\"]", choices[1]))
    kinds = {"int": "INT", "float": "FLOAT", "bool": "BOOL", "str": "TEXT", "list": "LIST", "tuple": "LIST"}
    found = [word for name, word in kinds.items() if re.search(rf"\b{name}\b", kind)]
    return "|".join(found) or ("NAME" if isinstance(default, str) else "CLASS")


def _text(option: Option, whole: bool) -> str:
    text = re.sub(r"\bNone\b", "null", " ".join(re.sub(r"``|:\w+:`|`", "", option.text).split()))
    if not whole:  # a sentence; what the default is, is said behind it
        text = re.split(r"(?<=[a-z)])\.\s+(?=[A-Z])", text)[0]
    return text.rstrip(".")


def _default(option: Option) -> str:
    return "must be given" if option.required else f"default: {json.dumps(option.default)}"
