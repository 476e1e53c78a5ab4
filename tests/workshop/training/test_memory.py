"""Counts against hand calculation, and on fake tensors against real ones."""

import pytest
import torch

from benchmarks.random_weights import fake_pipeline, random_pipeline
from imagedream.workshop.training.architectures import architecture_of
from imagedream.workshop.training.memory import memory_use, operations
from tests.tiny import tiny_pipeline


def test_bytes_and_operations_of_a_product():
    left, right = torch.zeros(10, 20), torch.zeros(20, 30)

    def run():
        product = left @ right  # 10 * 30 * 4 bytes, 2 * 10 * 20 * 30 operations
        twice = product * 2  # as many bytes; alive together with the product
        view = twice.view(-1)[:5]  # none
        del product
        return view, torch.zeros(7, dtype=torch.float16)  # 14 bytes

    counted = memory_use(run)
    assert counted.peak_bytes == 2400
    assert counted.kept_bytes == 1214
    assert operations(run) == 12000


def test_what_is_kept_for_the_backward_pass():
    x = torch.zeros(100, requires_grad=True)
    assert memory_use(lambda: x.exp().exp().sum()).kept_bytes == 2 * 400 + 4
    with torch.no_grad():
        assert memory_use(lambda: x.exp().exp().sum()).kept_bytes == 4


def test_fake_tensors_count_like_real_ones():
    architecture = architecture_of(tiny_pipeline())

    def encode(pipeline):
        pixels = torch.zeros(2, 3, 16, 16, requires_grad=True)

        def run():
            pipeline.encode_images(pixels).float().sum().backward()

        return memory_use(run).peak_bytes, operations(run)

    with fake_pipeline(architecture, torch.bfloat16) as fake:
        counted = encode(fake)
    real = encode(random_pipeline(architecture, dtype=torch.bfloat16))
    assert counted[0] == pytest.approx(real[0], rel=0.05)
    assert counted[1] == real[1]
