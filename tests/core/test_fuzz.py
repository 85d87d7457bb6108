"""Ten thousand things that strangers can send: each is read, or refused in one sentence. ``make fuzz`` has more."""

import re
from contextlib import nullcontext

import pytest

from nullinv_core import InputError

from ..fuzz import runner
from ..fuzz.runner import Fuzzer, check_sentence, run
from ..fuzz.table import CORE, SERVED, share_of
from ..published import PACK

CASES = 10_000


@pytest.mark.parametrize("name", CORE)
def test_what_strangers_send_is_read_or_refused_in_a_sentence(name):
    """Guards every edge: no other end of a case, none that takes long or much memory, and both ends are reached."""
    cases = share_of(name, CASES, CORE)
    found = run(CORE[name], name, cases)
    assert found.cases == cases and min(found.refused, found.results) > cases / 20


def test_the_threat_model_names_tests_that_are_there():
    """Guards docs/security.md: every test and fuzzer in it exists."""
    text = (PACK / "docs" / "security.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (PACK / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 15 and [name for name in named if f"def {name}(" not in sources] == []
    fuzzers = {name for listed in re.findall(r"fuzzers? (`[^|]+`)", text) for name in re.findall(r"`(\w+)`", listed)}
    assert fuzzers == {*CORE, *SERVED}


def fuzzer_of(case):
    """A fuzzer that runs one function."""
    return Fuzzer(1, 100, lambda _: nullcontext(case))


def raising(error):
    def case(_):
        raise error

    return case


def work(_):
    while True:
        pass


@pytest.mark.parametrize(
    ("case", "limit", "message"),
    [
        (raising(KeyError("x")), {}, "case 0 of seed 0 ends in KeyError"),
        (raising(InputError("x" * 1000)), {}, "no sentence"),
        (work, {"SECONDS": 0.2}, "takes more than 0.2 s"),
        (lambda _: None, {"megabytes": iter([0, 101]).__next__}, "or one before takes 101 MB"),
    ],
)
def test_a_fuzzer_that_finds_something_says_so(monkeypatch, case, limit, message):
    """Guards the runner: it cannot only pass."""
    for name, value in limit.items():
        monkeypatch.setattr(runner, name, value)
    with pytest.raises(AssertionError, match=message):
        run(fuzzer_of(case), "one", 2)


@pytest.mark.skipif(not runner.PEAK.exists(), reason="this system keeps a process's peak of memory for its whole life")
def test_a_fuzzer_s_memory_is_its_own():
    """Guards the bound on memory in a process that took more before: a test of full size, or another fuzzer."""
    bytearray(b"x") * 2**29

    def grows(_):
        bytearray(b"x") * 2**28

    with pytest.raises(AssertionError, match=r"case 0 of seed 0 or one before takes 2\d\d MB"):
        run(fuzzer_of(grows), "one", 1)
    assert run(fuzzer_of(lambda _: None), "one", 1).megabytes < 100


def test_a_case_is_the_same_each_time():
    """Guards the numbers in a failure: they are enough to run that case alone."""
    drawn = []

    def case(rng):
        drawn.append(rng.random())

    run(fuzzer_of(case), "one", 3, seed=5)
    run(fuzzer_of(case), "one", 1, seed=5, first=2)
    assert drawn[3] == drawn[2] and len({*drawn}) == 3


@pytest.mark.parametrize("text", ["", "two\nlines", "\x1b[2J", "x" * runner.LETTERS])
def test_what_is_no_sentence(text):
    """Guards the measure of a message."""
    with pytest.raises(AssertionError):
        check_sentence(text)
