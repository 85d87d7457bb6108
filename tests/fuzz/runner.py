"""How fuzzers are run: every case by its own seed, every end a result or one sentence, time and memory bounded."""

import random
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from nullinv_core import InputError

SECONDS = 5
"""Processor time that a case may take."""
LETTERS = 900
"""Most letters of a sentence."""
PEAK = Path("/proc/self/clear_refs")
"""Where Linux is told to measure a process's peak of memory anew."""


@dataclass(frozen=True)
class Fuzzer:
    """``share``: of all the cases. ``megabytes``: what they may add to the memory that the process had.

    ``prepare``: gets a folder of its own, gives what runs a case by its numbers at random: it returns, or raises
    InputError; all else is an error of ours.
    """

    share: float
    megabytes: float
    prepare: Callable[[Path], AbstractContextManager[Callable[[random.Random], object]]]


def listed(figures):
    """Figures as one line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in asdict(figures).items()
    )


@dataclass
class Figures:
    """What came of the cases. Times are the processor's."""

    cases: int = 0
    refused: int = 0
    results: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_case: str = ""
    megabytes: float = 0.0

    __str__ = listed


class TooSlow(BaseException):
    """A case took longer than it may. No ``except Exception`` on the way takes it for an error of its own."""


def forget_peak():
    """Have ``megabytes`` say the most memory from now on, where the system can do so."""
    if PEAK.exists():
        PEAK.write_text("5")


def megabytes():
    """Most memory that this process had since ``forget_peak``, or ever where that can do nothing."""
    if PEAK.exists():
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(peak) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def _limited():
    """Raise TooSlow in the block where it takes more than ``SECONDS`` of the processor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TooSlow

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def check_sentence(text):
    """Raise AssertionError unless a message is one line that a terminal shows as it is, and not too long."""
    assert text and text.isprintable() and len(text) < LETTERS, f"no sentence: {text[:2000]!r}"


@contextmanager
def naming(path):
    """Raise AssertionError where the block refuses a file without saying which."""
    try:
        yield
    except InputError as error:
        if str(path) not in str(error):
            raise AssertionError(f"no file is named: {error}") from error
        raise


def run(fuzzer, name, cases, seed=0, first=0):
    """Figures of so many cases, from number ``first`` on. Raises AssertionError that names the case which ended
    otherwise than in a result or a sentence, took too long, or too much memory."""
    found = Figures()
    with tempfile.TemporaryDirectory() as folder, fuzzer.prepare(Path(folder)) as case:
        forget_peak()
        before = megabytes()
        for number in range(first, first + cases):
            label = f"{name}: case {number} of seed {seed}"
            started = time.process_time()
            try:
                with _limited():
                    case(random.Random(f"{seed} {name} {number}"))
                found.results += 1
            except InputError as error:
                check_sentence(str(error))
                found.refused += 1
            except TooSlow as error:
                raise AssertionError(f"{label} takes more than {SECONDS} s") from error
            except Exception as error:
                raise AssertionError(f"{label} ends in {error!r}") from error
            took = time.process_time() - started
            found.cases += 1
            found.seconds += took
            if took > found.slowest:
                found.slowest, found.slowest_case = took, str(number)
            found.megabytes = megabytes() - before
            assert found.megabytes < fuzzer.megabytes, f"{label} or one before takes {found.megabytes:.0f} MB"
    return found
