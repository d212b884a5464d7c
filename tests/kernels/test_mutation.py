"""The rules that make mutants, the list of those that are equivalent, and the run of all."""

import subprocess
import sys

import pytest

from .mutation import LISTED, all_mutants, equivalents
from .mutation_rules import mutants
from .shim import KERNELS

CHANGES = {  # a line of a function: what becomes of it
    "for (; i < n;) f(i);": [
        *("for (; i <= n;) f(i);", "for (; false;) f(i);", "for (; i < n;) ;"),
    ],
    "y = -x + 2;": ["y = x + 2;", "y = -x - 2;", "y = -x + 1;", "y = -x + 3;", ";"],
    "y *= 0.5f;": ["y /= 0.5f;", "y = 0.5f;", "y *= (2 * 0.5f);", ";"],
    "const auto y = load<T, N>(x);": [],
    "__syncthreads();": [";"],
    "__threadfence();": [";"],
    "const bool any = __syncthreads_or(mine);": ["const bool any = (mine);"],
    "const int old = atomicAdd(at, n);": [
        *("const int old = atomicSub(at, n);", "const int old = (*(at));"),
    ],
    "y = __shfl_xor_sync(MASK, x, LANES);": ["y = (x);", ";"],
    "const long long k = static_cast<long long>(i);": [
        *("const int k = static_cast<long long>(i);", "const long long k = static_cast<int>(i);"),
    ],
    "if (a && !b) return;": [
        *("if (true) return;", "if (false) return;", "if (true && !b) return;", "if (a && true) return;"),
        "if (a && b) return;",
    ],
    "const int m = a < b ? a : b;": [
        *("const int m = a <= b ? a : b;", "const int m = true ? a : b;", "const int m = false ? a : b;"),
    ],
    "p = {q.first, true};": ["p = {q.second, true};", "p = {q.first, false};", ";"],
    "if (++k == n) k = p;": [
        *("if (k == n) k = p;", "if (++k != n) k = p;", "if (true) k = p;", "if (false) k = p;"),
        "if (++k == n) ;",
    ],
    "// a + b": [],
}


@pytest.mark.parametrize(("line", "changes"), CHANGES.items(), ids=CHANGES)
def test_rules(line, changes):
    text = f"void f() {{\n{line}\n}}\n"
    made = mutants("a.cu", text)
    assert sorted(mutant.change(text) for mutant in made) == sorted((line, change) for change in changes)
    assert all(mutant.line(text) == 2 for mutant in made)


def test_what_only_a_gpu_compiles_is_left():
    text = "#ifdef __CUDA_ARCH__\nint a = 1 + b;\n#else\nint a = 2;\n#endif\n#define C 3 + 4\nint d = 5;\n"
    lines = {mutant.change(text)[0] for mutant in mutants("a.cuh", text)}
    assert lines == {"int a = 2;", "int d = 5;"}


def test_equivalents_are_mutants_of_the_kernels():
    made = list(all_mutants(KERNELS))
    for entry in equivalents():
        covered = {mutant.change(text)[1] for mutant, text in made if entry.covers(mutant, text)}
        assert entry.reason and covered, f"{LISTED.name}: {entry.file} has no line {entry.line}"
        assert covered >= set(entry.become), f"{LISTED.name}: {entry.line} does not become all that it names"


@pytest.mark.slow  # a compilation for each of a thousand mutants
def test_every_mutant_that_is_not_equivalent_dies():
    root = LISTED.parents[2]
    subprocess.run([sys.executable, "-m", "tests.kernels.mutation"], cwd=root, check=True)
