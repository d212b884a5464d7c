"""Messages as one sentence: what was perhaps meant, and other libraries' outlines of all that they tried."""

import difflib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Lines that say nothing of the mistake itself.
NOISE = (
    "Expected a path but",
    "Does not validate against any",
    "Subtypes:",
    "Errors:",
    "Given value type:",
    "Given value: NestedArg",
)
RESTRICTED = {"PositiveInt": "an integer of at least 1", "NonNegativeInt": "an integer of at least 0"}


def one_line(error: BaseException | str) -> str:
    """All of a message, without its line breaks."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """What an error says first; its class where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def did_you_mean(given: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about a name that is not ``known``: the nearest one, if one is near."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def counted(number: int, what: str) -> str:
    """Such as "1 seed", "1,000 seeds"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def some_of(names: Sequence[str], at_most: int = 5) -> str:
    """The first of a list, and how many follow."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def of_file(error: OSError) -> str:
    """What could not be done to which file, such as ``runs/r50/last.ckpt: No space left on device``."""
    what = error.strerror or str(error) or type(error).__name__
    return what if error.filename is None else f"{os.fsdecode(error.filename)}: {what}"


def of_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as its reader needs it, without the line of code that raised it."""
    return f"videonorm: {message}\n"


def one_sentence(message: str) -> str:
    """Such as ``model.backbone.norm (videonorm.layers.GrupNorm): module 'videonorm.layers' has no attribute
    'GrupNorm'``.

    Of the alternatives of a union, the first that names something counts.
    """
    keys: list[str] = []
    value = ""
    wanted: list[str] = []
    reasons: list[str] = []
    for line in filter(None, (line.strip(" -") for line in message.splitlines())):
        line = re.sub(r"^Type .* expects a function or a callable class: ", "", line)
        if match := re.match(r'Parser key "(.+?)":\s*', line):
            keys.append(match[1])
            line = line[match.end() :]
        if not line or line.startswith(NOISE):
            continue
        if match := re.fullmatch(r"Problem with given class_path '(.+)':", line):
            value = match[1]
            continue
        if match := re.fullmatch(r"Given value: (.+?)(\. Got value: .*)?", line):
            value = match[1]
            continue
        numbers = "|".join(RESTRICTED)
        if match := re.match(rf"Not of type ({numbers}): (?:.*'(.+)'|(\S+) (?:does not|not an?) )?", line):
            value = match[2] or match[3] or value
            wanted.append(RESTRICTED[match[1]])
            if value:  # an entry of a list
                break
            continue
        line, _, got = line.partition(". Got value: ")
        if got:
            given_class = re.match(r"Namespace\(class_path='(.+?)'", got)
            value = given_class[1] if given_class else got
        if match := re.fullmatch(r"Expected an? (.*)", line):
            wanted.append(_kind(match[1]))
        else:
            reasons.append(line)
        if got or " must " in line or line.endswith("is not accepted"):
            break
    name = ".".join(keys) + (f" ({value})" if value else "")
    if reasons:
        sentence = " ".join(reasons) if not keys else reasons[0][0].lower() + reasons[0][1:]
        sentence += _meant(reasons[0], value)
        return f"{name}: {sentence}" if name else sentence
    return f"{name} must be {' or '.join(dict.fromkeys(wanted))}"


def _meant(reason: str, class_path: str) -> str:
    """What a misspelt argument or class perhaps stands for, by the modules that jsonargparse has imported."""
    if match := re.fullmatch(r"module '(.+)' has no attribute '(\w+)'\.?", reason):
        return did_you_mean(match[2], dir(pkgutil.resolve_name(match[1])), f"{match[1]}.").rstrip(".")
    if match := re.fullmatch(r"Option '(\w+)' is not accepted", reason):
        try:
            return did_you_mean(match[1], arguments(pkgutil.resolve_name(class_path)))
        except (ImportError, AttributeError, ValueError):  # a short name, or none
            return ""
    return ""


def arguments(of: Any) -> list[str]:
    """The names of what a class or function takes, those that it hands on to its bases with them."""
    classes = of.__mro__ if isinstance(of, type) else [of]
    names: list[str] = []
    for each in classes:
        call = each.__init__ if isinstance(each, type) else each  # type: ignore[misc]
        taken = inspect.signature(call).parameters.values()
        names += [one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind == one.VAR_KEYWORD for one in taken):
            break
    return [name for name in dict.fromkeys(names) if name != "self"]


def _kind(wanted: str) -> str:
    """What was expected, in the words of a YAML file."""
    if match := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", wanted):
        words = {
            "NoneType": "null",
            "list": "a list",
            "dict": "a mapping",
            "dot import path string": "class path",
        }
        return words.get(match[1], match[1])
    if match := re.fullmatch(r"typing\.Literal\[(.+)\]", wanted):
        return f"one of {match[1]}"
    return "a class path" if wanted.startswith("dot import path string") else f"a {wanted}"
