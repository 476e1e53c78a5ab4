import logging
from types import SimpleNamespace

import pytest

from threestudio.utils import callbacks


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(callbacks.time, "time", lambda: clock.now)
    return clock


def test_lines_where_there_is_no_terminal(clock, caplog):
    bar = callbacks.Lines(seconds_between_lines=15.0)
    trainer = SimpleNamespace(global_step=100, max_steps=200, num_test_batches=[4])
    with caplog.at_level(logging.INFO):
        for trainer.global_step in range(101, 201):
            clock.now += 0.5
            bar.on_train_batch_end(trainer)
        for index in range(4):
            bar.on_test_batch_end(trainer, None, None, None, index)
    texts = [record.message for record in caplog.records]
    assert len(texts) == 5  # 50 s of training, and the ends
    assert texts[0] == "Training:  66% 131/200 [00:15<00:33,  2.07it/s]"
    assert texts[-2].startswith("Training: 100% 200/200")
    assert texts[-1].startswith("Rendering: 100% 4/4")


def test_the_time_left_is_said_once(clock, caplog):
    trainer = SimpleNamespace(global_step=7, max_steps=127)
    left = callbacks.TimeLeft()
    left.on_train_start(trainer, None)
    with caplog.at_level(logging.INFO):
        for trainer.global_step in range(8, 60):
            clock.now += 3.0
            left.on_train_batch_end(trainer)
    (text,) = [record.message for record in caplog.records]
    assert text == "About 05:00 of training left at this pace, 3.00 s a step"


def test_bars_know_how_many_batches_an_endless_dataset_has():
    bars = callbacks.Bars()
    bars._trainer = SimpleNamespace(max_steps=10, accumulate_grad_batches=2)
    assert bars.total_train_batches == 20
    bars.trainer.max_steps = -1
    assert bars.total_train_batches == float("inf")
