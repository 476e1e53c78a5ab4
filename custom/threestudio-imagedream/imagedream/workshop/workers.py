"""Many tasks over processes of this machine or over a Ray cluster; a task that fails, crashes or hangs costs only itself.

Workers live as long as there are tasks, so what a function keeps in its process (a model, say) is there for the next.
`run_tasks` is the story; `_Processes` and `_Actors` say how workers of either sort are started, waited for and ended.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from textwrap import shorten
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

Function = Callable[[Any], Any]
"""What is done with a task; its ValueErrors and OSErrors speak for themselves."""

Runner = Callable[[Function, Iterable[Any]], Iterator["Outcome"]]
"""Does a function for tasks: one of the `run_...` below with its settings filled in."""

_STARTS = 3
"""Workers that may die one after another before they are ready."""

_FAREWELL_S = 2.0
"""Time for an idle process to end by itself."""


@dataclass(frozen=True)
class Outcome:
    """How a task went."""

    task: Any
    """What was to be done."""
    value: Any = None
    """What came of it."""
    error: str | None = None
    """Why nothing came of it, in a line."""
    fatal: bool = False
    """Whether the next task would fare no better: the run must stop."""


class FatalError(Exception):
    """What a task raises when it is not the task's fault, a full disk for example."""


def attempt(function: Function, task: Any) -> Outcome:
    """Run a task here."""
    try:
        return Outcome(task, function(task))
    except FatalError as error:
        return Outcome(task, error=str(error), fatal=True)
    except (ValueError, OSError) as error:  # explained by their message
        return Outcome(task, error=" ".join(str(error).split()))
    except Exception as error:  # a library stumbled over the data
        return Outcome(task, error=" ".join(f"{type(error).__name__}: {error}".split()))


class _Died(Exception):
    """A worker is no more; the message says what of."""


@runtime_checkable
class _Worker(Protocol):
    def start(self, task: Any) -> None:
        """Give it a task."""

    def receive(self) -> Any:
        """None when it has only now become ready, or its task's outcome; raises _Died."""

    def stop(self) -> None:
        """End it, whatever it does."""


@runtime_checkable
class _Staff(Protocol):
    size: int

    def hire(self) -> _Worker:
        """Start one more."""

    def wait(self, workers: Sequence[Any], seconds: float | None) -> list[Any]:
        """Those from which something can be received, after at most so many seconds."""


def run_tasks(
    staff: _Staff, tasks: Iterable[Any], timeout_s: float = float("inf"), attempts: int = 1
) -> Iterator[Outcome]:
    """Outcomes in the order in which they come; a task that failed goes to the end of the queue `attempts` − 1 times.

    Raises:
        RuntimeError: no worker can be started.
    """
    waiting = deque((task, 1) for task in tasks)
    starting: list[_Worker] = []
    idle: list[_Worker] = []
    busy: dict[_Worker, tuple[Any, int, float]] = {}
    died_early = 0
    try:
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                task, number = waiting.popleft()
                busy[worker] = (task, number, time.monotonic() + timeout_s)
                worker.start(task)
            while len(starting) + len(busy) < staff.size and len(starting) < len(waiting):
                starting.append(staff.hire())
            nearest = min((deadline for *_, deadline in busy.values()), default=float("inf"))
            patience = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
            finished: list[tuple[int, Outcome]] = []
            for worker in staff.wait([*starting, *busy], patience):
                try:
                    outcome = worker.receive()
                except _Died as died:
                    worker.stop()
                    if worker in starting:
                        starting.remove(worker)
                        died_early += 1
                        if died_early == _STARTS or not (idle or busy or starting):
                            raise RuntimeError(f"a worker process did not start ({died})") from died
                        continue
                    task, number, _ = busy.pop(worker)
                    finished.append((number, Outcome(task, error=f"its process died ({died})")))
                    continue
                if outcome is None:
                    starting.remove(worker)
                    died_early = 0
                else:
                    finished.append((busy.pop(worker)[1], outcome))
                idle.append(worker)
            for worker, (task, number, deadline) in list(busy.items()):
                if time.monotonic() > deadline:
                    del busy[worker]
                    worker.stop()
                    finished.append((number, Outcome(task, error=f"given up after {timeout_s:g} s")))
            for number, outcome in finished:
                if outcome.error is not None and not outcome.fatal and number < attempts:
                    waiting.append((outcome.task, number + 1))
                else:
                    yield outcome
    finally:
        for worker in (*starting, *busy, *idle):
            worker.stop()


# --------------------------------------------------------------------------------------------------- processes


def run_processes(
    function: Function,
    tasks: Iterable[Any],
    jobs: int,
    timeout_s: float = float("inf"),
    attempts: int = 1,
    threads: int = 1,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator[Outcome]:
    """Outcomes in the order in which they come, from `jobs` processes.

    Args:
        function: picklable.
        tasks: picklable.
        jobs: processes; 0 runs everything in this one, where nothing survives a crash and nothing is timed.
        timeout_s: seconds after which a task is given up.
        attempts: how often a task may fail, its process die or its time run out before it counts as failed.
        threads: of torch in each process.
        environments: environment variables of the first process, the second, ..., and again from the beginning; the one
            that takes the place of a process that died has that one's.
    """
    if jobs == 0:
        for task in tasks:
            outcome = attempt(function, task)
            for _ in range(attempts - 1):
                if outcome.error is not None and not outcome.fatal:
                    outcome = attempt(function, task)
            yield outcome
        return
    yield from run_tasks(_Processes(function, jobs, threads, environments), tasks, timeout_s, attempts)


class _Processes:
    def __init__(
        self, function: Function, size: int, threads: int, environments: Sequence[Mapping[str, str]]
    ):
        self.size = size
        self._function, self._threads, self._environments = function, threads, environments
        self._places: dict[int, _Process] = {}

    def hire(self) -> "_Process":
        place = next(
            place for place in range(self.size) if place not in self._places or self._places[place].stopped
        )
        environment = self._environments[place % len(self._environments)] if self._environments else {}
        self._places[place] = _Process(self._function, self._threads, environment)
        return self._places[place]

    def wait(self, workers: Sequence["_Process"], seconds: float | None) -> list["_Process"]:
        ready = wait([worker.connection for worker in workers], timeout=seconds)
        return [worker for worker in workers if worker.connection in ready]


class _Process:
    def __init__(self, function: Function, threads: int, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
        self.connection, theirs = context.Pipe()
        arguments = (theirs, function, threads, dict(environment))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed
        self._idle = False

    @property
    def stopped(self) -> bool:
        return self.connection.closed

    def start(self, task: Any) -> None:
        self._idle = False
        with suppress(OSError):  # it died while it was idle, which `receive` will find
            self.connection.send(task)

    def receive(self) -> Outcome | None:
        try:
            outcome = self.connection.recv()
            self._idle = True
            return outcome
        except (EOFError, OSError) as error:
            self._process.join()
            raise _Died(_cause(self._process.exitcode)) from error

    def stop(self) -> None:
        self.connection.close()
        if self._idle:
            self._process.join(_FAREWELL_S)
        if hasattr(os, "killpg") and self._process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):  # it has no group of its own yet, or is gone
                os.killpg(self._process.pid, signal.SIGKILL)  # and programs that it runs
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, function: Function, threads: int, environment: Mapping[str, str]) -> None:
    """A worker process: tasks in, outcomes out, until the connection closes."""
    os.environ.update(environment)
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal is the parent's to handle
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which a killed process leaves behind
    _limit_threads(threads)
    connection.send(None)  # ready
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(attempt(function, task))


def _limit_threads(threads: int) -> None:
    """Of torch, whether it is imported already or will be only when it is needed, which saves seconds."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _end_with_parent() -> None:
    """A parent that was killed starts its tasks again later: nobody may still be at work on them then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exitcode}"


def do_all(
    function: Function, tasks: Sequence[Any], jobs: int | None, description: str, unit: str = "task"
) -> None:
    """Do every task over processes, with a progress bar; one task or one job is done in this process.

    Args:
        function: see `run_processes`.
        tasks: see `run_processes`.
        jobs: processes; all cores when None.
        description: of the progress bar.
        unit: of what it counts.

    Raises:
        ChildProcessError: a task failed; those under way are given up.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    outcomes = run_processes(function, tasks, jobs if jobs > 1 else 0)
    with closing(outcomes), tqdm(outcomes, description, len(tasks), unit=unit, disable=len(tasks) < 2) as bar:
        for outcome in bar:
            if outcome.error is not None:
                raise ChildProcessError(f"{description}: {outcome.error}")


# --------------------------------------------------------------------------------------------------------- ray


def run_ray(
    function: Function,
    tasks: Iterable[Any],
    address: str,
    timeout_s: float = float("inf"),
    attempts: int = 1,
    threads: int = 1,
    jobs: int | None = None,
    gpus: int = 0,
) -> Iterator[Outcome]:
    """The same over a Ray cluster, whose nodes all have this library and the same folders.

    Args:
        function: see `run_processes`.
        tasks: see `run_processes`.
        address: of the cluster, as `ray.init` takes it: `auto`, `ray://HOST:10001`, `HOST:6379`, or `local` for a new
            one on this machine.
        timeout_s: see `run_processes`.
        attempts: see `run_processes`.
        threads: cores that a worker takes.
        jobs: workers; None for as many as the cluster has room for.
        gpus: that a worker takes.

    Raises:
        ImportError: ray is not installed.
        ValueError: the cluster has no room for a single worker.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("a Ray cluster needs ray: pip install 'imagedream[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False if address == "local" else None
        )
    try:
        total = ray.cluster_resources()
        room = int(total.get("CPU", 0) // threads)
        if gpus:
            room = min(room, int(total.get("GPU", 0) // gpus))
        if room < 1:
            has = f"{total.get('CPU', 0):g} cores and {total.get('GPU', 0):g} GPUs"
            raise ValueError(f"a worker takes {threads} cores and {gpus} GPUs, the Ray cluster has {has}")
        staff = _Actors(function, min(room, jobs or room), threads, gpus)
        yield from run_tasks(staff, tasks, timeout_s, attempts)
    finally:
        if started:
            ray.shutdown()


class _Server:
    """What lives in a Ray worker."""

    def __init__(self, function: Function, threads: int):
        _limit_threads(threads)
        self._function = function

    def ready(self) -> None:
        pass

    def attempt(self, task: Any) -> Outcome:
        return attempt(self._function, task)


class _Actors:
    def __init__(self, function: Function, size: int, threads: int, gpus: int):
        import ray

        self.size = size
        self._server = ray.remote(num_cpus=threads, num_gpus=gpus)(_Server)
        self._arguments = (ray.put(function), threads)

    def hire(self) -> "_Actor":
        return _Actor(self._server.remote(*self._arguments))

    def wait(self, workers: Sequence["_Actor"], seconds: float | None) -> list["_Actor"]:
        import ray

        ready, _ = ray.wait([worker.answer for worker in workers], timeout=seconds)
        return [worker for worker in workers if worker.answer in ready]


class _Actor:
    def __init__(self, server: Any):
        self._server = server
        self.answer = server.ready.remote()

    def start(self, task: Any) -> None:
        self.answer = self._server.attempt.remote(task)

    def receive(self) -> Outcome | None:
        import ray

        try:
            return ray.get(self.answer)
        except ray.exceptions.RayError as error:
            reason = shorten(str(error).strip().splitlines()[-1], 160)
            raise _Died(f"{type(error).__name__}: {reason}") from error

    def stop(self) -> None:
        import ray

        ray.kill(self._server)


def choose_runner(
    jobs: int,
    ray: str | None,
    timeout_s: float,
    attempts: int = 1,
    gpus: Sequence[int] = (),
    share_cores: bool = True,
) -> Runner:
    """What `--jobs`, `--ray` and `--timeout-s` ask for.

    Args:
        jobs: workers; over Ray, 0 for as many as there is room for.
        ray: address of a cluster.
        timeout_s: for a task.
        attempts: at a task.
        gpus: whose numbers the processes take in turn; over Ray, whether a worker takes one.
        share_cores: whether workers take all cores between them; otherwise each takes one.

    Raises:
        ValueError: a number is out of range.
    """
    if not timeout_s > 0:
        raise ValueError(f"--timeout-s is {timeout_s}, must be larger than 0")
    if jobs < (0 if ray else 1):
        raise ValueError(f"--jobs is {jobs}, must be at least 1")
    threads = max(1, (os.cpu_count() or 1) // max(1, jobs)) if share_cores else 1
    settings = {"timeout_s": timeout_s, "attempts": attempts, "threads": threads}
    if ray is not None:
        return partial(run_ray, address=ray, jobs=jobs or None, gpus=1 if gpus else 0, **settings)
    environments = [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus]
    return partial(run_processes, jobs=jobs, environments=environments, **settings)
