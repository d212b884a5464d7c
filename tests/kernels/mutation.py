"""Does a mistake in a kernel show? Makes one at a time, and runs tests until one fails.

    nice python -m tests.kernels.mutation [--source group_norm.cu] [--out mutants.csv]

Most mutants are made by mutation_rules.py, some by hand in mutants.toml, which lists the equivalent ones too.
Each has a process of its own, forked where pytest has collected the tests. Most are compiled together, by
mutation_switch.py, the others alone: both without optimization, and the shim's header before. Tests that kill
most mutants a second come first. What hangs is killed when a test takes twenty times as long as otherwise.
The equivalent ones are not run, but with --equivalent they alone. The exit code is 1 where one survives that
should die, or the other way round.
"""

import argparse
import csv
import functools
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: what is forked must have one thread

import pytest

from .mutation_machine import Machine, fork  # noqa: E402
from .mutation_rules import Mutant, mutants  # noqa: E402
from .mutation_switch import can_be_switched, switched, without_errors  # noqa: E402

HERE = Path(__file__).parent
LISTED = HERE / "mutants.toml"
COMPILATION_SECONDS = 0.3


class Outcome(IntEnum):
    """Also the exit code of a mutant's process; whatever else ends that, it is KILLED."""

    SURVIVED = 10
    KILLED = 11
    NO_MUTANT = 12  # it does not compile
    EQUIVALENT = 13


@dataclass(frozen=True)
class Equivalent:
    """Mutants of a line that do the same, or whose results are as good."""

    file: str
    line: str
    become: tuple[str, ...]  # () for whatever the rules make of it
    above: str | None  # the line before, where there are several like it
    reason: str

    def covers(self, mutant: Mutant, text: str) -> bool:
        """Of a file with this text."""
        if self.file != mutant.file:
            return False
        before, after = mutant.change(text)
        if self.line != before or (self.become and after not in self.become):
            return False
        above = text[: mutant.start].splitlines()[-2]
        return self.above in (None, " ".join(above.split()))


def equivalents() -> list[Equivalent]:
    entries = tomllib.loads(LISTED.read_text()).get("equivalent", [])
    return [
        Equivalent(e["file"], e["line"], tuple(e.get("become", ())), e.get("above"), e["reason"])
        for e in entries
    ]


def by_hand(file: str, text: str) -> Iterator[Mutant]:
    for entry in tomllib.loads(LISTED.read_text())["by_hand"]:
        if entry["file"] == file:
            before, right, after = text.partition(entry["right"])
            if not right or right in after:
                raise ValueError(f"{right or entry['right']!r} of {LISTED.name} must stand once in {file}")
            yield Mutant(file, "by_hand", len(before), len(before + right), entry["wrong"])


@dataclass
class Test:
    """A test that launches kernels as they are in their files."""

    item: pytest.Item
    seconds: float  # without compilation
    units: frozenset[str]  # "kind source macro=value ..."
    kills: Counter[str] = field(default_factory=Counter)  # by file

    def sees(self, file: str) -> bool:
        return file.endswith(".cuh") or any(Path(unit.split()[1]).name == file for unit in self.units)


class Fate(NamedTuple):
    mutant: Mutant
    line: int
    before: str
    after: str
    outcome: Outcome
    killer: str


class Run:
    """A plugin of pytest that runs the tests for every mutant in place of once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.fates: list[Fate] = []
        self.errors: list[str] = []  # of the test that runs, as is the next
        self.skipped = False
        self.with_asan: list[pytest.Item] = []  # tests that run kernels in other processes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.skipped |= report.skipped
        if report.failed:
            self.errors.append(report.longreprtext)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = [item for item in session.items if hasattr(item.module, "Shim")]
        self.with_asan = [item for item in items if "run_with_asan" in item.fixturenames]
        items = [item for item in items if item not in self.with_asan]
        with tempfile.TemporaryDirectory() as folder, open(self.options.out, "w", newline="") as file:
            machine = Machine(sys.modules[items[0].module.Shim.__module__], Path(folder))
            rows = csv.writer(file)
            rows.writerow(["file", "line", "rule", "before", "after", "outcome", "killer"])
            for fate in self.run(machine, items):
                self.fates.append(fate)
                mutant, line, before, after, outcome, killer = fate
                rows.writerow([mutant.file, line, mutant.rule, before, after, outcome.name.lower(), killer])
                file.flush()
        return True

    def fails(self, item: pytest.Item) -> bool:
        self.errors.clear()
        self.skipped = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return bool(self.errors)

    def try_out(self, machine: Machine, items: list[pytest.Item], folder: Path) -> list[Test]:
        """The tests that launch the kernels of a folder as they are there, which all of them must pass."""

        def work() -> int:
            machine.use(folder, 0)
            units: set[str] = set()
            machine.record(units)
            with (folder / "tests").open("w") as file:
                for index, item in enumerate(items):
                    units.clear()
                    start = time.process_time()
                    if self.fails(item):
                        (folder / "error").write_text("\n".join([item.nodeid, *self.errors]))
                        return 1
                    if units and not self.skipped:
                        print(index, time.process_time() - start, *units, sep="\t", file=file)
            return 0

        if os.waitpid(fork(work), 0)[1]:
            raise RuntimeError((folder / "error").read_text())
        rows = [line.split("\t") for line in (folder / "tests").read_text().splitlines()]
        return [Test(items[int(index)], float(seconds), frozenset(units)) for index, seconds, *units in rows]

    def compile_together(
        self, machine: Machine, items: list[pytest.Item], waiting: list[tuple[int, Mutant, str]]
    ) -> tuple[list[Test], dict[int, Path]]:
        """The tests, tried out; and of all mutants that can be compiled together the folder, by number."""
        texts = {mutant.file: text for _, mutant, text in waiting}
        numbered: dict[str, list[tuple[int, Mutant]]] = {file: [] for file in texts}
        for number, mutant, text in waiting:
            if can_be_switched(mutant, text):
                numbered[mutant.file].append((number, mutant))
        while True:
            numbered = {file: together for file, together in numbered.items() if together}
            switching = {file: switched(texts[file], together) for file, together in numbered.items()}
            folder = machine.folder_with(switching)
            try:
                tests = self.try_out(machine, items, folder)
                return tests, {number: folder for each in numbered.values() for number, _ in each}
            except RuntimeError as error:
                left = {file: without_errors(texts[file], numbered[file], str(error)) for file in numbered}
                if left == numbered:
                    raise
                numbered = left

    def run(self, machine: Machine, items: list[pytest.Item]) -> Iterator[Fate]:
        """Some at a time, in the order in which they end."""
        waiting = [
            (number, mutant, text)
            for number, (mutant, text) in enumerate(all_mutants(machine.kernels), 1)
            if mutant.file in (self.options.source or [mutant.file])
            and number in (self.options.only or [number])
        ]
        listed = equivalents()
        equal = {number: any(e.covers(mutant, text) for e in listed) for number, mutant, text in waiting}
        if not self.options.equivalent:
            for number, mutant, text in waiting:
                if equal[number]:
                    yield fate_of(mutant, text, Outcome.EQUIVALENT)
        waiting = [each for each in waiting if equal[each[0]] == self.options.equivalent]
        tests, together = self.compile_together(machine, items, waiting)
        print(f"{len(tests)} tests of {sum(test.seconds for test in tests):.0f} s", flush=True)
        print(f"{len(waiting)} mutants, {len(together)} of them compiled together", flush=True)
        waiting.sort(key=lambda each: each[0] not in together)  # stable
        running: dict[int, tuple[int, Mutant, str, list[Test], Path]] = {}
        while waiting or running:
            if waiting and len(running) < self.options.jobs:
                number, mutant, text = waiting.pop(0)
                folder = together.get(number) or machine.folder_with({mutant.file: mutant.of(text)})
                chosen = in_order(mutant.file, tests, 0 if number in together else COMPILATION_SECONDS)
                work = functools.partial(self.outcome_of, machine, folder, chosen, number, mutant, text)
                running[fork(work)] = number, mutant, text, chosen, folder
                continue
            pid, status = os.wait()
            number, mutant, text, chosen, folder = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            outcome = Outcome(code) if code in list(Outcome) else Outcome.KILLED
            last = int((folder / str(number)).read_text())
            if number not in together:
                shutil.rmtree(folder)
            killer = ""
            if outcome is Outcome.KILLED and last < len(chosen):
                chosen[last].kills[mutant.file] += 1
                killer = chosen[last].item.name
            elif outcome is Outcome.KILLED:
                killer = "ASan"
            if outcome is Outcome.SURVIVED and equal[number]:
                outcome = Outcome.EQUIVALENT
            fate = fate_of(mutant, text, outcome, killer)
            yield fate
            if self.options.only or self.is_wrong(fate):
                print(number, describe(fate), flush=True)

    def is_wrong(self, fate: Fate) -> bool:
        return fate.outcome is (Outcome.KILLED if self.options.equivalent else Outcome.SURVIVED)

    def outcome_of(
        self, machine: Machine, folder: Path, tests: list[Test], number: int, mutant: Mutant, text: str
    ) -> Outcome:
        """Of the kernels in a folder, in which the index of the last test is left by the number.

        What survives there is run alone with ASan, whose compilation is long.
        """
        machine.use(folder, number)
        for index, test in enumerate(tests):
            (folder / str(number)).write_text(str(index))
            signal.setitimer(signal.ITIMER_PROF, 2 + 20 * test.seconds)  # of this process's own, not of g++'s
            if self.fails(test.item):
                return Outcome.NO_MUTANT if "g++ cannot compile" in str(self.errors) else Outcome.KILLED
        (folder / str(number)).write_text(str(len(tests)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        machine.use_alone(machine.folder_with({mutant.file: mutant.of(text)}))
        stem = Path(mutant.file).stem if mutant.file.endswith(".cu") else ""
        of_file = [item for item in self.with_asan if stem in item.path.name]
        return Outcome.KILLED if any(map(self.fails, of_file)) else Outcome.SURVIVED


def all_mutants(kernels: Path) -> Iterator[tuple[Mutant, str]]:
    """Of all kernel files, each with the text that it is of."""
    for path in sorted(kernels.glob("*.cu*")):
        text = path.read_text()
        for mutant in (*mutants(path.name, text), *by_hand(path.name, text)):
            yield mutant, text


def in_order(file: str, tests: Iterable[Test], compilation_seconds: float) -> list[Test]:
    """Those that launch a kernel of the file: first what has killed most of its mutants for the time it
    takes, with the units to compile that those before it do not launch.
    """
    left, units, chosen = [test for test in tests if test.sees(file)], set(), []
    while left:

        def rate(test: Test) -> float:
            seconds = test.seconds + compilation_seconds * len(test.units - units)  # noqa: B023
            return (test.kills[file] + 0.1) / (seconds + 0.01)

        best = max(left, key=rate)
        left.remove(best)
        chosen.append(best)
        units |= best.units
    return chosen


def fate_of(mutant: Mutant, text: str, outcome: Outcome, killer: str = "") -> Fate:
    return Fate(mutant, mutant.line(text), *mutant.change(text), outcome, killer)


def describe(fate: Fate) -> str:
    where = f"{fate.mutant.file}:{fate.line} {fate.outcome.name.lower()}"
    return f"{where} {fate.killer}\n    {fate.before[:200]}\n    {fate.after[:200]}"


def report(fates: list[Fate]) -> None:
    for file in sorted({fate.mutant.file for fate in fates}):
        of_file = Counter(fate.outcome for fate in fates if fate.mutant.file == file)
        killed, equal = of_file[Outcome.KILLED], of_file[Outcome.EQUIVALENT]
        all_of_them = killed + equal + of_file[Outcome.SURVIVED]
        share = killed / max(1, all_of_them - equal)
        print(
            f"{file}: {all_of_them} mutants, {killed} killed, {equal} equivalent,"
            f" {of_file[Outcome.SURVIVED]} survived: of those not equivalent {100 * share:.1f} % died;"
            f" {of_file[Outcome.NO_MUTANT]} more do not compile"
        )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", action="append", help="a kernel file; all if none is given")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutants, as a run prints them")
    parser.add_argument("--equivalent", action="store_true", help="run those that are listed as such")
    parser.add_argument("--out", default=os.devnull, help="a CSV with a row for every mutant, as they end")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at a time")
    parser.add_argument("tests", nargs="*", default=[HERE], help="as pytest knows them; all if none is given")
    options = parser.parse_args(argv)
    start, run = time.perf_counter(), Run(options)
    plain = ["-p", "no:cacheprovider", "-p", "no:faulthandler", "--tb=native", "-s", "-q"]
    if code := pytest.main([*plain, *map(str, options.tests)], plugins=[run]):
        return int(code)
    report(run.fates)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    return int(any(map(run.is_wrong, run.fates)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
