"""Many tasks over processes of this machine or over a Ray cluster; a task that fails, crashes or hangs costs only itself.

Workers live as long as there are tasks, so what a function keeps in its process (a model, say) is there for the next.

Not `pebble.ProcessPool`, which was tried: its processes share one pipe, and one that dies soon after it took a task may
end the whole pool ("All workers expired": seen within 60 and within 200 crashing tasks, over four processes of a busy
machine). Here every process has a pipe of its own, and a thread at its other end.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from textwrap import shorten
from typing import Any

from tqdm import tqdm

from imagedream.runs.ranges import Count, CountOrZero, check_value
from imagedream.runs.user_errors import one_line

Function = Callable[[Any], Any]
"""What is done with a task; the messages of its ValueErrors and OSErrors need no further explanation."""

Runner = Callable[[Function, Iterable[Any]], Iterator["Outcome"]]
"""Does a function for tasks: one of the `run_...` below with its settings filled in."""

_STARTS = 3
"""Workers that may die one after another before they are ready."""

_GRACE_S = 2.0
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
    except (ValueError, OSError) as error:
        return Outcome(task, error=" ".join(str(error).split()))
    except Exception as error:  # a library that cannot cope with the data
        return Outcome(task, error=f"{type(error).__name__}: {one_line(error)}")


class _Died(Exception):
    """A worker is no more; the message says what of."""


class _Workers:
    """A thread for each worker, which gives it one task after the other and starts a new one where it died."""

    def __init__(self, start: Callable[[int], "_Process | _Actor"], timeout_s: float, attempts: int):
        self._start, self._timeout_s, self._attempts = start, timeout_s, attempts
        self._finished: SimpleQueue[Outcome | Exception] = SimpleQueue()
        self._workers: dict[int, _Process | _Actor] = {}
        self._stopped = False

    def run(self, size: int, tasks: Iterable[Any]) -> Iterator[Outcome]:
        """Outcomes in the order in which they come; a task that failed goes to the end of the queue again.

        Raises:
            RuntimeError: a worker cannot be started.
        """
        self._waiting = deque((task, 1) for task in tasks)
        count = len(self._waiting)
        places = range(min(size, count))
        threads = [threading.Thread(target=self._serve, args=[place], daemon=True) for place in places]
        try:
            for thread in threads:
                thread.start()
            for _ in range(count):
                outcome = self._finished.get()
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
        finally:
            self._stopped = True
            for worker in list(self._workers.values()):
                worker.stop()
            for thread in threads:
                if thread.ident is not None:  # it was started
                    thread.join()

    def _serve(self, place: int) -> None:
        """Look after the worker in a place until no task is left."""
        try:
            while self._waiting and not self._stopped:
                if place not in self._workers:
                    self._start_one(place)
                    continue
                try:
                    task, number = self._waiting.popleft()
                except IndexError:  # another thread took it
                    break
                outcome = self._attempt(place, task)
                if outcome.error is not None and not outcome.fatal and number < self._attempts:
                    self._waiting.append((task, number + 1))
                else:
                    self._finished.put(outcome)
            if place in self._workers:
                self._workers[place].end()
        except Exception as error:  # nobody may wait in vain for what this thread does not do
            self._finished.put(error)

    def _start_one(self, place: int) -> None:
        for starts_left in reversed(range(_STARTS)):
            self._workers[place] = self._start(place)
            try:
                return self._workers[place].wait_until_ready()
            except _Died as died:
                if self._stopped or not starts_left:
                    raise RuntimeError(f"a worker process did not start ({died})") from died

    def _attempt(self, place: int, task: Any) -> Outcome:
        try:
            return self._workers[place].attempt(task, self._timeout_s)
        except TimeoutError:
            error = f"given up after {self._timeout_s:g} s"
        except _Died as died:
            error = f"its process died ({died})"
        self._workers.pop(place).stop()
        return Outcome(task, error=error)


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

    Raises:
        RuntimeError: a process cannot be started.
    """
    if jobs == 0:
        for task in tasks:
            outcome = attempt(function, task)
            for _ in range(attempts - 1):
                if outcome.error is not None and not outcome.fatal:
                    outcome = attempt(function, task)
            yield outcome
        return

    def start(place: int) -> _Process:
        return _Process(function, threads, environments[place % len(environments)] if environments else {})

    yield from _Workers(start, timeout_s, attempts).run(jobs, tasks)


class _Process:
    """A worker process and the pipe to it."""

    def __init__(self, function: Function, threads: int, environment: Mapping[str, str]):
        context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
        self._connection, theirs = context.Pipe()
        arguments = (theirs, function, threads, dict(environment))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed

    def wait_until_ready(self) -> None:
        self._receive()

    def attempt(self, task: Any, timeout_s: float) -> Outcome:
        with suppress(OSError):  # it died while it was idle, which `_receive` will find
            self._connection.send(task)
        if not self._connection.poll(None if timeout_s == float("inf") else timeout_s):
            raise TimeoutError
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise _Died(_cause(self._process.exitcode)) from error

    def end(self) -> None:
        self._connection.close()
        self._process.join(_GRACE_S)
        self.stop()

    def stop(self) -> None:
        """Whatever it does; may be called by another thread."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # it has no group of its own yet, or is gone
                os.killpg(self._process.pid, signal.SIGKILL)  # and programs that it runs
        self._process.kill()
        self._process.join()


def _cause(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


def _serve(connection: Connection, function: Function, threads: int, environment: Mapping[str, str]) -> None:
    """A worker process: tasks in, outcomes out, until the connection closes."""
    os.environ.update(environment)
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal is for the parent, and programs started here end with this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is one between processes, which a killed process leaves locked
    _limit_threads(threads)
    connection.send(None)  # ready
    with suppress(EOFError):
        while True:
            connection.send(attempt(function, connection.recv()))


def _end_with_parent() -> None:
    """A parent that was killed starts its tasks again later: nobody may still be at work on them then."""
    wait([multiprocessing.parent_process().sentinel])
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _limit_threads(threads: int) -> None:
    """Of torch, whether it is imported already or will be only when it is needed, which saves seconds."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


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
        dashboard = False if address == "local" else None
        ray.init(address=address, log_to_driver=False, include_dashboard=dashboard)
    try:
        total = ray.cluster_resources()
        room = int(total.get("CPU", 0) // threads)
        if gpus:
            room = min(room, int(total.get("GPU", 0) // gpus))
        if room < 1:
            has = f"{total.get('CPU', 0):g} cores and {total.get('GPU', 0):g} GPUs"
            raise ValueError(f"a worker takes {threads} cores and {gpus} GPUs, the Ray cluster has {has}")
        actor = ray.remote(num_cpus=threads, num_gpus=gpus)(_Server)
        arguments = (ray.put(function), threads)
        workers = _Workers(lambda _: _Actor(actor.remote(*arguments)), timeout_s, attempts)
        yield from workers.run(min(room, jobs or room), tasks)
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


class _Actor:
    """A Ray worker as seen from here."""

    def __init__(self, server: Any):
        self._server = server

    def wait_until_ready(self) -> None:
        self._get(self._server.ready.remote(), None)

    def attempt(self, task: Any, timeout_s: float) -> Outcome:
        return self._get(self._server.attempt.remote(task), None if timeout_s == float("inf") else timeout_s)

    def _get(self, answer: Any, seconds: float | None) -> Any:
        import ray

        try:
            return ray.get(answer, timeout=seconds)
        except ray.exceptions.GetTimeoutError as error:
            raise TimeoutError from error
        except ray.exceptions.RayError as error:
            reason = shorten(str(error).strip().splitlines()[-1], 160)
            raise _Died(f"{type(error).__name__}: {reason}") from error

    def stop(self) -> None:
        import ray

        ray.kill(self._server)

    end = stop


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
    check_value("--jobs", jobs, CountOrZero if ray else Count)
    threads = max(1, (os.cpu_count() or 1) // max(1, jobs)) if share_cores else 1
    settings = {"timeout_s": timeout_s, "attempts": attempts, "threads": threads}
    if ray is not None:
        return partial(run_ray, address=ray, jobs=jobs or None, gpus=1 if gpus else 0, **settings)
    environments = [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus]
    return partial(run_processes, jobs=jobs, environments=environments, **settings)
