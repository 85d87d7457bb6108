"""Fuzzers, seeded and bounded: ``python -m tests.fuzz --cases 200000``, or ``make fuzz``."""
