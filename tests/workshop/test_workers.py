"""Tasks over processes: whatever happens to one task, the others go on."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from imagedream.workshop.workers import FatalError, do_all, run_processes, run_ray


def work(task):
    """What each of the odd tasks does is its name."""
    match task:
        case "bad":
            raise ValueError("said\nwhy")
        case "surprise":
            return {}["key"]
        case "die":
            os.abort()
        case "hang":
            time.sleep(60)
        case "disk full":
            raise FatalError("no space")
    return task * 2


def by_task(outcomes):
    return {one.task: one.error if one.error is not None else one.value for one in outcomes}


FAILURES = {1: 2, 2: 4, "bad": "said why", "surprise": "KeyError: 'key'"}


def test_failures_are_reported():
    assert by_task(run_processes(work, FAILURES, jobs=0)) == FAILURES
    (outcome,) = run_processes(work, ["disk full"], jobs=0)
    assert outcome.fatal


def test_a_dead_or_hanging_process_costs_its_task_alone():
    died = {"die": "its process died (SIGABRT)", "hang": "given up after 2 s"}
    found = by_task(run_processes(work, ["die", "hang", *FAILURES], jobs=2, timeout_s=2.0))
    assert found == {**FAILURES, **died}


def work_once(task, folder):
    """Note that the work was done, and by whom; the odd tasks go wrong at the first try only."""
    name, mishap = task
    tries = folder / f"{name}.tries"
    with tries.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(tries.read_text().splitlines()) == 1:
        if mishap == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif mishap == "bad":
            raise ValueError("not yet")
    if mishap == "hopeless":
        raise ValueError("never")
    with (folder / f"{name}.done").open("a") as file:
        file.write("done\n")
    return name


TASKS = [("a", ""), ("b", "killed"), ("c", ""), ("d", "bad"), ("e", "hopeless"), ("f", "")]


def check_everything_was_done_once(outcomes, folder):
    assert {o.task[0]: o.error for o in outcomes} == dict.fromkeys("abcdf") | {"e": "never"}
    tries = {path.stem: len(path.read_text().splitlines()) for path in folder.glob("*.tries")}
    assert tries == {"a": 1, "b": 2, "c": 1, "d": 2, "e": 2, "f": 1}
    assert {path.stem: path.read_text() for path in folder.glob("*.done")} == dict.fromkeys("abcdf", "done\n")


def test_what_failed_is_tried_again_and_nothing_is_done_twice(tmp_path):
    run = partial(run_processes, jobs=2, timeout_s=60.0, attempts=2)
    check_everything_was_done_once(list(run(partial(work_once, folder=tmp_path), TASKS)), tmp_path)
    seen = {line for path in tmp_path.glob("*.tries") for line in path.read_text().splitlines()}
    assert len(seen) <= 3  # workers live from task to task; one may have taken the killed one's place


def meet(round_number, folder):
    """Wait for the colleague at the other desk; whoever sits at desk 1 does not survive the first round."""
    here = folder / str(round_number)
    here.mkdir(exist_ok=True)
    (here / os.environ["DESK"]).touch()
    wait_until(lambda: len(list(here.iterdir())) == 2)
    if os.environ["DESK"] == "1" and round_number == 0:
        os.abort()
    return round_number


def test_who_takes_the_place_of_one_that_died_has_its_environment(tmp_path):
    desks = [{"DESK": "0"}, {"DESK": "1"}]
    outcomes = run_processes(
        partial(meet, folder=tmp_path), [0, 0, 1, 1, 2, 2], jobs=2, timeout_s=100.0, environments=desks
    )
    found = sorted((outcome.task, outcome.error or "") for outcome in outcomes)
    assert found == [(0, ""), (0, "its process died (SIGABRT)"), (1, ""), (1, ""), (2, ""), (2, "")]


SHORT_LIVED_PARENT = """
import sys, time
from pathlib import Path
from tests.workshop.test_workers import start_program
from imagedream.workshop.workers import run_processes
for outcome in run_processes(start_program, [Path(sys.argv[1])], jobs=1):
    pass
"""


def start_program(folder):
    """A worker that runs another program; both note their numbers and take their time."""
    program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    (folder / "worker").write_text(str(os.getpid()))
    subprocess.run([sys.executable, "-c", program, folder / "program"], check=True)


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="needs POSIX process groups")
def test_nothing_outlives_a_parent_that_was_killed(tmp_path):
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "custom" / "threestudio-imagedream")])
    command = [sys.executable, "-c", SHORT_LIVED_PARENT, tmp_path]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as parent:
        wait_until(lambda: (tmp_path / "program").exists() and (tmp_path / "program").read_text())
        parent.kill()
    for name in ("worker", "program"):
        wait_until(lambda name=name: not is_alive(int((tmp_path / name).read_text())))


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(number):
    """Whether a process runs; one that has ended but that nobody has asked about does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def write_own_number(path):
    if path.name == "bad":
        raise OSError("no room")
    path.write_text(str(os.getpid()))


@pytest.mark.parametrize(("jobs", "names"), [(1, "ab"), (2, "ab"), (None, "a")])
def test_all_tasks_are_done_by_other_processes_if_there_is_something_to_share(tmp_path, jobs, names):
    do_all(write_own_number, [tmp_path / name for name in names], jobs, "writing")
    here = str(os.getpid()) in {(tmp_path / name).read_text() for name in names}
    assert here == (jobs != 2)
    do_all(write_own_number, [], jobs, "writing")


def test_the_first_failure_ends_all(tmp_path):
    with pytest.raises(ChildProcessError, match=r"^writing: no room$"):
        do_all(write_own_number, [tmp_path / "bad", *[tmp_path / str(n) for n in range(40)]], 2, "writing")
    assert len(list(tmp_path.iterdir())) < 40


class Unpicklable:
    def __call__(self, task):
        return task

    def __setstate__(self, state):
        raise ImportError("cannot be read in the worker")

    def __getstate__(self):
        return {"a": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_cannot_start_stops_everything(capfd):
    with pytest.raises(RuntimeError, match="a worker process did not start"):
        list(run_processes(Unpicklable(), [1, 2], jobs=1, timeout_s=10.0))
    assert "cannot be read in the worker" in capfd.readouterr().err


def test_ray_is_named_where_it_is_missing():
    if importlib.util.find_spec("ray"):
        pytest.skip("ray is installed, see the next test")
    with pytest.raises(ImportError, match=r"pip install 'imagedream\[ray\]'"):
        list(run_ray(work, [1], "local"))


@pytest.mark.slow
def test_the_same_over_ray(tmp_path):
    ray = pytest.importorskip("ray", reason="the ray extra is not installed")
    ray.init("local", log_to_driver=False, include_dashboard=False)
    try:
        found = by_task(run_ray(work, ["hang", "die", *FAILURES], "local", timeout_s=3.0))
        assert found.pop("die").startswith("its process died")
        assert found == {**FAILURES, "hang": "given up after 3 s"}
        run = partial(run_ray, address="local", jobs=2, attempts=2)
        check_everything_was_done_once(list(run(partial(work_once, folder=tmp_path), TASKS)), tmp_path)
        with pytest.raises(ValueError, match=r"takes 4096 cores and 0 GPUs, the Ray cluster has \d+ cores"):
            list(run_ray(work, [1], "local", threads=4096))
    finally:
        ray.shutdown()
