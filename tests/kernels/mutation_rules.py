"""Mutants of a kernel file: its text with one small mistake each, made by rules.

The rules go by tokens and by the spaces that clang-format puts around binary operators; they know no types.
So some mutants do not compile, and those are none. What only a GPU compiles is left as it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<directive>^[ \t]*\#(?:\\\n|[^\n])*)
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<number>0[xX][0-9a-fA-F.]+(?:[pP][+-]?\d+)?[fuUlL]*|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?[fuUlL]*)
    |(?P<word>\w+)
    |(?P<operator><<=|>>=|<=|>=|==|!=|&&|\|\||\+\+|--|[-+*/%&|^]=|->|::|<<|>>|.)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
OPEN, CLOSE = "([{", ")]}"

SWAPS = {
    **{"<": ["<="], "<=": ["<"], ">": [">="], ">=": [">"], "==": ["!="], "!=": ["=="]},
    **{"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"]},
    **{"<<": [">>"], ">>": ["<<"], "&": ["|"], "|": ["&"], "^": ["|"]},
    **{"+=": ["-=", "="], "-=": ["+=", "="], "*=": ["/=", "="], "/=": ["*=", "="], "%=": ["="]},
    **{"&=": ["|=", "="], "|=": ["&=", "="], "^=": ["="], "<<=": [">>="], ">>=": ["<<="]},
}
"""Of binary operators."""

NAMES = {
    **{"true": "false", "false": "true", "first": "second", "second": "first"},
    **{"fminf": "fmaxf", "fmaxf": "fminf", "min": "max", "max": "min"},
    **{
        "atomicAdd": "atomicSub",
        "atomicSub": "atomicAdd",
        "atomicInc": "atomicDec",
        "atomicDec": "atomicInc",
    },
}

NOT_A_STATEMENT = {
    *("const", "constexpr", "static", "extern", "inline", "template", "typename", "using", "typedef"),
    *("struct", "class", "enum", "explicit", "static_assert", "auto", "void", "bool", "char", "int"),
    *("unsigned", "long", "float", "double", "if", "else", "for", "while", "do", "switch", "case", "break"),
    *("continue", "return", "decltype"),
}
"""What begins a declaration or a control statement."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Mutant:
    """A replacement in the text of a file."""

    file: str
    rule: str
    start: int
    end: int
    replacement: str

    def of(self, text: str) -> str:
        return text[: self.start] + self.replacement + text[self.end :]

    def line(self, text: str) -> int:
        return text.count("\n", 0, self.start) + 1

    def change(self, text: str) -> tuple[str, str]:
        """The lines that it is in, as they were and as they are, each in one line."""
        begin = text.rfind("\n", 0, self.start) + 1
        end = text.find("\n", self.end)
        before, after = text[begin:end], text[begin : self.start] + self.replacement + text[self.end : end]
        return " ".join(before.split()), " ".join(after.split())


def mutants(file: str, text: str) -> list[Mutant]:
    """Those of all rules, in the order of the text, no two alike."""
    code = Code(text)
    found = {
        (start, end, replacement): Mutant(file, rule.__name__, start, end, replacement)
        for rule in RULES
        for start, end, replacement in rule(code)
        if text[start:end] != replacement
    }
    return [found[key] for key in sorted(found)]


Changes = Iterator[tuple[int, int, str]]


class Code:
    """The tokens of a text that a CPU compiles, but for comments and directives."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.partner: dict[int, int] = {}  # index of a bracket: of the one that belongs to it
        self.inside: list[int] = []  # of each token: the bracket that is open there, or -1
        stack: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.text in CLOSE and stack:
                self.partner[index] = stack.pop()
                self.partner[self.partner[index]] = index
            self.inside.append(stack[-1] if stack else -1)
            if token.text in OPEN:
                stack.append(index)

    def __getitem__(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def is_binary(self, index: int) -> bool:
        """Between spaces."""
        token = self.tokens[index]
        return self.text[token.start - 1].isspace() and self.text[token.end : token.end + 1].isspace()

    def span(self, first: int, last: int) -> tuple[int, int]:
        return self.tokens[first].start, self.tokens[last].end

    def operand(self, index: int, step: int, bounds: set[str]) -> tuple[int, int]:
        """Of the operator at `index`, that before (step -1) or behind it (1), up to one of `bounds`."""
        edge = index + step
        last = edge
        while self[edge] and self[edge] not in bounds and self[edge] not in (OPEN if step < 0 else CLOSE):
            if self[edge] in (CLOSE if step < 0 else OPEN):
                edge = self.partner[edge]
            last = edge
            edge += step
        return self.span(last, index - 1) if step < 0 else self.span(index + 1, last)

    def comma_after(self, bracket: int) -> int:
        """The first one inside of it."""
        commas = (i for i in range(bracket, self.partner[bracket]) if self[i] == ",")
        return next(i for i in commas if self.inside[i] == bracket)

    def headers(self, *words: str) -> Iterator[tuple[str, int, int]]:
        """Of control statements: the word, and the brackets of what follows it."""
        for index, token in enumerate(self.tokens):
            if token.text in words:
                begin = index + 1 + (self[index + 1] == "constexpr")
                if self[begin] == "(":
                    yield token.text, begin, self.partner[begin]


def _tokens(text: str) -> Iterator[Token]:
    conditions: list[bool] = []  # of the directives that are open: whether the CPU skips what follows
    for match in TOKEN.finditer(text):
        kind, word = str(match.lastgroup), match.group()
        if kind == "directive":
            name = re.findall(r"\w+", word)[0]
            if name in ("if", "ifdef", "ifndef"):
                conditions.append("__CUDA_ARCH__" in word and name != "ifndef")
            elif name in ("else", "elif"):
                conditions.append(not conditions.pop())
            elif name == "endif":
                conditions.pop()
        elif kind != "comment" and not word.isspace() and not any(conditions):
            yield Token(kind, word, match.start(), match.end())


# -------------------------------------------------------------------------------------------------- rules


def operator(code: Code) -> Changes:
    """A binary operator is another one."""
    for index, token in enumerate(code.tokens):
        if token.kind == "operator" and code.is_binary(index):
            for other in SWAPS.get(token.text, []):
                yield token.start, token.end, other


def name(code: Code) -> Changes:
    """A name is that of the opposite."""
    for index, token in enumerate(code.tokens):
        member = token.text in ("first", "second")
        if token.text in NAMES and (not member or code[index - 1] == "." or code[index + 1] == "("):
            yield token.start, token.end, NAMES[token.text]


def sign(code: Code) -> Changes:
    """A minus or a negation is left out."""
    for index, token in enumerate(code.tokens):
        before = code[index - 1]
        of_one = code.tokens[index - 1].kind == "operator" and before not in CLOSE or before == "return"
        if token.text == "!" or (token.text == "-" and of_one and not code.is_binary(index)):
            yield token.start, token.end, ""


def increment(code: Code) -> Changes:
    """A counter stands still, or what was to be counted is lost; not in the header of a loop, which hangs."""
    in_header = {index for _, begin, end in code.headers("for") for index in range(begin, end)}
    for index, token in enumerate(code.tokens):
        if token.text in ("++", "--") and index not in in_header:
            yield token.start, token.end, ""


def number(code: Code) -> Changes:
    """A constant is one more, or one less; one with a fraction is twice as much."""
    for token in code.tokens:
        if token.kind != "number":
            continue
        digits = token.text.rstrip("uUlL")
        if "x" not in token.text.lower():
            digits = digits.rstrip("fF")
        try:
            value = int(digits, 0)
        except ValueError:
            yield token.start, token.end, f"(2 * {token.text})"
            continue
        suffix = token.text[len(digits) :]
        for other in (value - 1, value + 1):
            if 0 <= other < 2**32:
                digits = hex(other) if "x" in token.text else str(other)
                yield token.start, token.end, digits + (suffix if "f" not in suffix else ".f")


def narrow(code: Code) -> Changes:
    """What is computed in 64 bits has only 32."""
    for index, token in enumerate(code.tokens):
        if token.text == "long" and code[index + 1] == "long":
            yield *code.span(index, index + 1), "int"


def condition(code: Code) -> Changes:
    """A condition is always or never met; a loop never runs."""
    for word, begin, end in code.headers("if", "while"):
        for value in ("true", "false") if word == "if" else ("false",):
            yield *code.span(begin + 1, end - 1), value
    for _, begin, end in code.headers("for"):
        semicolons = [i for i in range(begin, end) if code[i] == ";" and code.inside[i] == begin]
        if semicolons and semicolons[1] > semicolons[0] + 1:
            yield *code.span(semicolons[0] + 1, semicolons[1] - 1), "false"
    for index, token in enumerate(code.tokens):
        if token.text == "?":
            span = code.operand(index, -1, {",", ";", "?", ":", "return", "=", "+=", "-=", "*=", "/="})
            yield *span, "true"
            yield *span, "false"


def term(code: Code) -> Changes:
    """One of the terms of a condition is left out."""
    for index, token in enumerate(code.tokens):
        if token.text in ("&&", "||") and code.is_binary(index):
            bounds = {"&&", "||", ",", ";", "?", ":", "return", "=", "&=", "|="}
            for step in (-1, 1):
                yield *code.operand(index, step, bounds), "true" if token.text == "&&" else "false"


def statement(code: Code) -> Changes:
    """A statement is left out: a barrier, a fence, a store, a call."""
    for index, token in enumerate(code.tokens):
        if token.kind not in ("word", "operator") or token.text in NOT_A_STATEMENT:
            continue
        if token.text in (*OPEN, *CLOSE, ";", ",") or not _begins_statement(code, index):
            continue
        end = index
        while code[end] and code[end] not in (*CLOSE, ";"):
            end = code.partner[end] if code[end] in OPEN else end
            end += 1
        words = {code[i] for i in range(index, end)}
        if code[end] == ";" and words & {"(", "=", "+=", "-=", "*=", "/=", "++", "--", "^=", "|=", "&="}:
            yield *code.span(index, end), ";"


def value(code: Code) -> Changes:
    """What an atomic or a barrier gives is taken without it: the old number, this thread's own."""
    for index, token in enumerate(code.tokens):
        if code[index + 1] == "(" and token.text.startswith(("atomic", "__syncthreads_", "__shfl_")):
            is_shuffle = token.text.startswith("__shfl_")
            argument = code.operand(code.comma_after(index + 1) if is_shuffle else index + 1, 1, {","})
            inside = code.text[slice(*argument)]
            whole = code.span(index, code.partner[index + 1])
            yield *whole, f"(*({inside}))" if token.text.startswith("atomic") else f"({inside})"


def _begins_statement(code: Code, index: int) -> bool:
    bracket = code.inside[index]
    if bracket < 0 or code[bracket] != "{":
        return False
    before = index - 1
    if code[before] == ")":
        header = code.partner[before] - 1
        return code[header - (code[header] == "constexpr")] in ("if", "for", "while")
    return code[before] in ("{", "}", ";", "else")


RULES = (operator, name, sign, increment, number, narrow, condition, term, statement, value)
