"""Groups computed by Ray: a worker on each GPU, or so many on CPUs, on this computer or on a cluster of the user's own.

Ray places the workers, carries pictures and results, and starts a worker again that died. What a worker is given and
gives back are bytes and texts; only this process writes. Ray's processes trust each other wholly, so the cluster must
be one's own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any

from ..errors import InputError, short
from .compute import About, Options, Outcome, Picture, Worker
from .plan import Group, Size
from .run import Load, Task

WAITING = 2
"""Groups that a worker has at once: one that it computes, and one that is there when it has done that."""
TRIES = 2
"""How often a group is tried again whose worker died."""
DIED = (
    "the worker died again and again at this group, perhaps for want of memory; take a smaller --batch with another "
    "--out, or --retry"
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
"""Nothing is sent to Ray's makers, it does not warn of what it will do one day, and workers run as any program does."""


class Remote:
    """A worker that loads its model when it is first asked: a model that cannot be loaded is then one sentence."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._worker: Worker | None = None

    def _loaded(self) -> Worker:
        self._worker = self._worker or Worker(self._options)
        return self._worker

    def about(self) -> About:
        """See ``Worker``."""
        return self._loaded().about()

    def best_batch(self, size: Size, edits: int, most: int) -> int:
        """See ``Worker``."""
        return self._loaded().best_batch(size, edits, most)

    def compute(self, group: Group, pictures: Sequence[Picture]) -> list[Outcome]:
        """See ``Worker``."""
        worker = self._loaded()
        try:
            return worker.compute(group, pictures)
        except RuntimeError:
            # the device is lost to this process; Ray starts another and tries there
            os._exit(1)


class Cluster:
    """Workers of a Ray that is started here, or that runs at an address. ``count``: 0 is as many as have room."""

    def __init__(self, count: int, address: str, options: Options) -> None:
        os.environ |= {name: value for name, value in QUIET.items() if name not in os.environ}
        import ray

        self._ray = ray
        own = {} if address else {"num_cpus": max(count, 1) * options.threads, "include_dashboard": False}
        handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="error", **own)
        except Exception as error:
            # Ray raises plain ones where a computer is too busy to start it
            where = f'"{short(address)}"' if address else "this computer"
            raise InputError(f"Ray on {where} does not start or answer ({short(str(error), 200)})") from error
        for number, handler in handlers:
            # a stop is ours to handle
            signal.signal(number, handler)
        there = ray.cluster_resources()
        gpus = options.device in ("", "cuda") and there.get("GPU", 0) >= 1
        kind, each = ("GPU", 1) if gpus else ("CPU", options.threads)
        room = int(there.get(kind, 0)) // each
        if room < max(count, 1):
            ray.shutdown()
            raise InputError(f"Ray has room for {room} workers, each on {each} {kind}; give --workers {max(room, 1)}")
        placed = {"num_gpus": each} if gpus else {"num_cpus": each}
        actor = ray.remote(Remote).options(**placed, max_restarts=-1, max_task_retries=TRIES)
        self._actors = [actor.remote(options) for _ in range(count or room)]

    def about(self) -> About:
        """See ``Workers``."""
        found: About = self._first("about")
        return found

    def best_batch(self, size: Size, edits: int, most: int) -> int:
        """See ``Workers``."""
        return int(self._first("best_batch", size, edits, most))

    def _first(self, question: str, *given: Any) -> Any:
        """What the first worker answers."""
        try:
            return self._result(getattr(self._actors[0], question).remote(*given).future())
        except self._ray.exceptions.RayActorError as error:
            raise InputError("a worker died while it loaded the model, perhaps for want of memory") from error

    def _result(self, answer: Future[Any]) -> Any:
        try:
            return answer.result()
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from error
            raise

    def compute(self, tasks: Iterable[Task], load: Load) -> Iterator[tuple[Task, list[Outcome]]]:
        """See ``Workers``. Pictures are read when a worker has room for them, so few are held at any time."""
        # futures, not Ray's own waiting, in which a stop loses its exit status
        running: dict[Future[Any], tuple[Any, Task]] = {}
        room = [actor for _ in range(WAITING) for actor in self._actors]
        left, suspects = iter(tasks), []
        while True:
            while room and (task := next(left, None)) is not None:
                actor = room.pop(0)
                running[actor.compute.remote(task[1], load(task[1])).future()] = actor, task
            if not running:
                break
            ready = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            actor, task = running.pop(ready)
            room.append(actor)
            try:
                yield task, self._result(ready)
            except self._ray.exceptions.RayActorError:
                # either this group, or the one that the worker had beside it
                suspects.append(task)
        for task in suspects:
            try:
                yield task, self._result(self._actors[0].compute.remote(task[1], load(task[1])).future())
            except self._ray.exceptions.RayActorError:
                yield task, [Outcome(sentence=DIED) for _ in task[1].jobs]

    def close(self) -> None:
        """Stop the workers, and the Ray that was started here."""
        self._ray.shutdown()


def cluster(count: int, address: str) -> Callable[[Options], Cluster]:
    """What starts ``count`` workers (0: as many as have room) at an address, or on this computer."""
    return partial(Cluster, count, address)
