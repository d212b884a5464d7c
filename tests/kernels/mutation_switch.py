"""Many mutants in one text, of which a variable says which one runs: one compilation for all of them.

What a mutant changes becomes `(shim_mutant == 7 ? (a - b) : (a + b))`, or, where a statement is left out,
`{ if (shim_mutant != 7) f(); }`. That is not possible where a constant is wanted, nor where a type changes.
"""

import re
from collections.abc import Iterable

from .mutation_rules import CLOSE, OPEN, Code, Mutant

VARIABLE = "shim_mutant"
DEFINITION = f'extern "C" int {VARIABLE};\nint {VARIABLE};'  # for the header that all texts include
BOUNDS = {",", ";", "{", "}", "?", ":", "return", "else", "=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="}
ASSIGNMENTS = {bound for bound in BOUNDS if bound.endswith("=")}
DECLARATION = re.compile(r"[A-Za-z_][\w:]*(<[^;=(]*>)?[\s*&]+(const\s+)?[A-Za-z_]\w*\s*[=;{(\[,]")
ARRAY = re.compile(r"\s*\w+ \w+\[$")
CONSTANT = re.compile(r"\b(constexpr|static_assert|template|alignas|typename)\b")

Span = tuple[int, int]


def can_be_switched(mutant: Mutant, text: str) -> bool:
    line = text[text.rfind("\n", 0, mutant.start) + 1 : mutant.start]
    in_template = text[mutant.start - 1] == "<" or text[mutant.end] == ">"
    if in_template or CONSTANT.search(line) or ARRAY.match(line):
        return False
    if mutant.rule in ("narrow", "by_hand"):
        return False
    return mutant.rule != "statement" or not DECLARATION.match(text, mutant.start)


def switched(text: str, numbered: Iterable[tuple[int, Mutant]]) -> str:
    """The text with the mutants of it, each of which runs while the variable has its number; none at 0."""
    code = Code(text)
    regions: dict[Span, list[tuple[int, Mutant]]] = {}
    for number, mutant in numbered:
        regions.setdefault(region(code, mutant), []).append((number, mutant))
    spans = sorted(regions, key=lambda span: (span[0], -span[1]))

    def render(begin: int, end: int, inner: list[Span]) -> str:
        """The text from `begin` to `end`, with the regions in it."""
        parts, position = [], begin
        while inner:
            first, *rest = inner
            within = [span for span in rest if span[1] <= first[1]]
            inner = [span for span in rest if span[0] >= first[1]]
            parts += [text[position : first[0]], switch(first, render(*first, within))]
            position = first[1]
        return "".join([*parts, text[position:end]])

    def switch(span: Span, right: str) -> str:
        """All mutants of a region, with its right text as the last case."""
        for number, mutant in reversed(regions[span]):
            if mutant.rule == "statement":
                right = f"{{ if ({VARIABLE} != {number}) {right} }}"
            else:
                before, after = text[span[0] : mutant.start], text[mutant.end : span[1]]
                wrong = in_one_line(before + mutant.replacement + after)
                to = "bool" if mutant.rule in ("condition", "term") or text[mutant.start] == "!" else ""
                right = f"({VARIABLE} == {number} ? {to}({wrong}) : {to}({right}))"
        return right

    return render(0, len(text), spans)


def region(code: Code, mutant: Mutant) -> Span:
    """What has to be there twice: the change itself, or the whole of the expression that it is in."""
    if mutant.rule not in ("operator", "name", "sign", "increment"):
        return mutant.start, mutant.end
    index = next(i for i, token in enumerate(code.tokens) if token.start == mutant.start)
    bounds = BOUNDS - ASSIGNMENTS if code[index] in ASSIGNMENTS else BOUNDS
    first = index
    while first and not is_bound(code, first - 1, bounds):
        first = code.partner[first - 1] if code[first - 1] in CLOSE else first - 1
    last = index
    while code[last + 1] not in bounds and code[last + 1] not in CLOSE and last + 1 < len(code.tokens):
        last = code.partner[last + 1] if code[last + 1] in OPEN else last + 1
    return code.span(first, last)


def is_bound(code: Code, index: int, bounds: set[str]) -> bool:
    """Whether an expression behind the token does not go on before it."""
    if code[index] == ")":
        header = code.partner[index] - 1
        return code[header - (code[header] == "constexpr")] in ("if", "for", "while")
    return code[index] in bounds or code[index] in OPEN


def without_errors(text: str, numbered: list[tuple[int, Mutant]], errors: str) -> list[tuple[int, Mutant]]:
    """Those that are in no line of which a compiler complains."""
    code = Code(text)
    lines = set(map(int, re.findall(rf"\b{re.escape(numbered[0][1].file)}:(\d+):\d+: error", errors)))

    def is_left(mutant: Mutant) -> bool:
        begin, end = (text.count("\n", 0, place) + 1 for place in region(code, mutant))
        return lines.isdisjoint(range(begin, end + 1))

    return [(number, mutant) for number, mutant in numbered if is_left(mutant)]


def in_one_line(text: str) -> str:
    """Without comments and directives, so that lines keep their numbers."""
    return " ".join(re.sub(r"//[^\n]*|^[ \t]*#[^\n]*", "", text, flags=re.MULTILINE).split())
