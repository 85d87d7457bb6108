"""``python -m tests.fuzz --cases 200000 --saves 2000``: every fuzzer, then many processes at one name."""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from .concurrency import crowd
from .table import FUZZERS, joined, run_by_name, share_of

PART = 20_000
"""Cases that a process runs at a time."""
SAVES_PER_KILL = 20


def main():
    """Run all fuzzers, or those that are named; exit status 1 where a case ended otherwise than it may."""
    parser = argparse.ArgumentParser(description="Fuzz everything that strangers can send.")
    parser.add_argument(
        "fuzzers", nargs="*", metavar="FUZZER", help=f"which ones: {', '.join(FUZZERS)}; by default all"
    )
    parser.add_argument("--cases", type=int, default=10_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to run a single one again")
    parser.add_argument("--saves", type=int, default=0, help="how often many processes save under one name; see crowd")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    names = chosen.fuzzers or list(FUZZERS)
    failed = False
    # a process of its own for every part: its peak of memory is that part's
    with ProcessPoolExecutor(chosen.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = {
            name: [
                pool.submit(run_by_name, name, min(PART, cases - start), chosen.seed, chosen.first + start)
                for start in range(0, cases, PART)
            ]
            for name in names
            if (cases := share_of(name, chosen.cases, names))
        }
        for name, parts in runs.items():
            try:
                print(f"{name}: {joined([part.result() for part in parts])}", flush=True)
            except AssertionError as error:
                failed = True
                print(f"{name}: FAILED: {error}", flush=True)
    if chosen.saves:
        print(f"concurrency: {crowd(chosen.saves, chosen.saves // SAVES_PER_KILL, chosen.seed)}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
