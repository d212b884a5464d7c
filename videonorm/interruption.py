"""SIGTERM and Ctrl-C end a command: with a shell's exit code for the signal, and a sentence."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """The process was asked to end; its exit code is a shell's for the signal, 143 or 130."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


@contextmanager
def stops(sentence: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C raise ``Stopped`` inside, wherever it is, so that all that is open is closed.

    They are ignored from then on, or a second one would leave processes behind. What is ignored before, as
    Ctrl-C by a job in the background, stays so; and in a thread of its own, which gets no signals, nothing
    changes.

    Args:
        sentence: what has become of the work, for standard error.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        for of in numbers:
            signal.signal(of, signal.SIG_IGN)
        raise Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    except Stopped:
        print(f"\nvideonorm: stopped; {sentence}", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
