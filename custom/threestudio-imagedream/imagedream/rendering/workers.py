"""Many tasks over processes of this machine or over a Ray cluster; a task that fails, crashes or hangs costs only itself."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any


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


def attempt(function: Callable[[Any], Any], task: Any) -> Outcome:
    """Run a task here."""
    try:
        return Outcome(task, function(task))
    except FatalError as error:
        return Outcome(task, error=str(error), fatal=True)
    except (ValueError, OSError) as error:  # explained by their message
        return Outcome(task, error=" ".join(str(error).split()))
    except Exception as error:  # a library stumbled over the data
        return Outcome(task, error=" ".join(f"{type(error).__name__}: {error}".split()))


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """A worker process: tasks in, outcomes out, until the connection closes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    connection.send(None)  # ready
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(attempt(function, task))


class _Worker:
    def __init__(self, function: Callable[[Any], Any]):
        context = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed
        self.task: Any = None
        self.deadline = float("inf")
        self._ready = False

    def start(self, task: Any, timeout_s: float) -> None:
        self.task = task
        # a process that is only now starting takes seconds to say that it is ready
        self.deadline = time.monotonic() + timeout_s if self._ready else float("inf")
        self.connection.send(task)

    def receive(self, timeout_s: float) -> Outcome | None:
        """The outcome, or None when it has only now begun."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            cause = _cause(self.process.exitcode)
            if not self._ready:
                raise RuntimeError(f"a worker process did not start ({cause})") from error
            return Outcome(self.task, error=f"its process died ({cause})")
        if outcome is None:
            self._ready, self.deadline = True, time.monotonic() + timeout_s
        return outcome

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def run_processes(
    function: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, timeout_s: float
) -> Iterator[Outcome]:
    """Outcomes in the order in which they come, from `jobs` processes of one thread each.

    Args:
        function: picklable; its ValueErrors and OSErrors speak for themselves.
        tasks: picklable.
        jobs: processes; 0 runs everything in this one, where nothing survives a crash and nothing is timed.
        timeout_s: seconds after which a task is given up.
    """
    if jobs == 0:
        yield from (attempt(function, task) for task in tasks)
        return
    waiting, busy, idle = iter(tasks), dict[Connection, _Worker](), list[_Worker]()
    try:
        while True:
            while len(busy) < jobs:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                worker = idle.pop() if idle else _Worker(function)
                busy[worker.connection] = worker
                worker.start(task, timeout_s)
            if not busy:
                break
            patience = max(0.0, min(worker.deadline for worker in busy.values()) - time.monotonic())
            ready = wait(list(busy), timeout=None if patience == float("inf") else patience)
            for connection in ready:
                worker = busy[connection]
                outcome = worker.receive(timeout_s)
                if outcome is None:
                    continue
                del busy[connection]
                if worker.process.is_alive():
                    idle.append(worker)
                else:
                    worker.stop()
                yield outcome
            for connection, worker in list(busy.items()):
                if connection not in ready and time.monotonic() > worker.deadline:
                    del busy[connection]
                    worker.stop()
                    yield Outcome(worker.task, error=f"given up after {timeout_s:g} s")
    finally:
        for worker in (*busy.values(), *idle):
            worker.stop()


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exitcode}"


def run_ray(
    function: Callable[[Any], Any], tasks: Iterable[Any], address: str, timeout_s: float
) -> Iterator[Outcome]:
    """The same over a Ray cluster: one task a core at a time, all nodes with this library and the same folders.

    Args:
        function: see `run_processes`.
        tasks: see `run_processes`.
        address: of the cluster, as `ray.init` takes it: `auto`, `ray://HOST:10001`, `HOST:6379`, or `local` for a new
            one on this machine.
        timeout_s: seconds after which a task is given up.

    Raises:
        ImportError: ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("rendering over a Ray cluster needs ray: pip install 'imagedream[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False if address == "local" else None
        )
    try:
        remote = ray.remote(num_cpus=1, max_retries=0, max_calls=64)(_attempt_remotely)
        function = ray.put(function)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, running = iter(tasks), {}
        while True:
            while len(running) < 2 * cores:
                try:
                    task = next(waiting)
                except StopIteration:
                    break
                running[remote.remote(function, task, timeout_s)] = task
            if not running:
                break
            for reference in ray.wait(list(running))[0]:
                task = running.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield Outcome(task, error=f"its process died ({type(error).__name__})")
    finally:
        if started:
            ray.shutdown()


def _attempt_remotely(function: Callable[[Any], Any], task: Any, timeout_s: float) -> Outcome:
    """A task in a Ray worker; the alarm bounds the time that it runs, not the time that it waits for a core."""
    import torch

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"given up after {timeout_s:g} s")

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return attempt(function, task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
