"""Tasks over processes: whatever happens to one task, the others go on."""

import os
import time

import pytest

from imagedream.rendering.workers import FatalError, run_processes, run_ray


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


def outcomes(tasks, jobs, timeout_s=100.0):
    return {
        outcome.task: outcome.error if outcome.error is not None else outcome.value
        for outcome in run_processes(work, tasks, jobs, timeout_s)
    }


@pytest.mark.parametrize("jobs", [0, 2])
def test_failures_are_reported(jobs):
    assert outcomes([1, "bad", 2, "surprise", 3], jobs) == {
        1: 2,
        2: 4,
        3: 6,
        "bad": "said why",
        "surprise": "KeyError: 'key'",
    }


def test_a_dead_or_hanging_process_costs_its_task_alone():
    found = outcomes(["die", "hang", 1, 2], jobs=1, timeout_s=2.0)
    assert found == {"die": "its process died (SIGABRT)", "hang": "given up after 2 s", 1: 2, 2: 4}


def test_what_is_nobodys_fault_is_fatal():
    (outcome,) = run_processes(work, ["disk full"], jobs=0, timeout_s=1.0)
    assert outcome.fatal


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
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install 'imagedream\[ray\]'"):
            list(run_ray(work, [1], "local", 1.0))
    else:
        pytest.skip("ray is installed, see the next test")


@pytest.mark.slow
def test_ray_gives_the_same_outcomes():
    pytest.importorskip("ray", reason="the ray extra is not installed")
    found = {
        outcome.task: outcome.error if outcome.error is not None else outcome.value
        for outcome in run_ray(work, [1, "bad", "surprise", "hang", "die", 2], "local", timeout_s=3.0)
    }
    died = found.pop("die")
    assert died.startswith("its process died")
    assert found == {
        1: 2,
        2: 4,
        "bad": "said why",
        "surprise": "KeyError: 'key'",
        "hang": "given up after 3 s",
    }
