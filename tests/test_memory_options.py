"""Every memory option gives what the pipeline gives without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.random_weights import random_pipeline
from imagedream.memory_options import MemoryOptions, apply_memory_options, computes_in_bfloat16, precision
from imagedream.workshop.training.architectures import architecture_of
from imagedream.workshop.training.memory import memory_use
from tests.test_pipeline import sample
from tests.tiny import tiny_pipeline

ARCHITECTURE = architecture_of(tiny_pipeline())


def pipeline_with(device="cpu", **options):
    pipeline = random_pipeline(ARCHITECTURE, seed=1, device=device)
    pipeline.set_progress_bar_config(disable=True)
    apply_memory_options(pipeline, MemoryOptions(**options))
    return pipeline


def gradient(pipeline, pixels):
    """Of the autoencoder's encoding, as distillation needs it."""
    pixels = pixels.clone().requires_grad_()
    weights = torch.arange(pixels.shape[0] * 64.0).reshape(-1, 4, 4, 4).cos()
    (pipeline.encode_images(pixels) * weights).sum().backward()
    return pixels.grad


PIXELS = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "offload"},
        {"vae_slicing": True},
        {"vae_checkpointing": True},
        {"encoder": "offload", "vae_slicing": True, "vae_checkpointing": True},
    ],
)
def test_an_option_changes_nothing_that_comes_out(options):
    assert_same_outputs(options)


def assert_same_outputs(options):
    plain, with_option = pipeline_with(), pipeline_with(**options)
    torch.testing.assert_close(sample(with_option).images, sample(plain).images, rtol=1e-3, atol=3e-4)
    wanted = gradient(plain, PIXELS)
    assert (gradient(with_option, PIXELS) - wanted).norm() < 1e-4 * wanted.norm()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_is_the_same():
    # in a process of its own, because the shape checks of the tests cannot be compiled
    code = "from tests.test_memory_options import assert_same_outputs as check; check({'compile': True})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_offloaded_blocks_are_on_the_device_only_while_they_work():
    pipeline = pipeline_with("cuda", encoder="offload")
    blocks = pipeline.encoder.clip.transformer.resblocks
    seen = []
    blocks[0].ln_1.register_forward_pre_hook(lambda module, _: seen.append(module.weight.device.type))
    for _ in range(2):
        assert {weight.device.type for weight in blocks.parameters()} == {"cpu"}
        assert pipeline.encoder.encode_text(["a ball"]).device.type == "cuda"
    assert seen == ["cuda", "cuda"]
    torch.testing.assert_close(
        sample(pipeline).images.cpu(), sample(pipeline_with()).images, rtol=1e-2, atol=1e-3
    )


def test_every_block_of_both_encoders_is_offloaded():
    clip = pipeline_with(encoder="offload").encoder.clip
    for blocks in (clip.transformer.resblocks, clip.visual.transformer.resblocks):
        groups = [block._diffusers_hook.get_hook("group_offloading").group for block in blocks]
        assert [group.modules for group in groups] == [[block] for block in blocks]


def test_what_the_autoencoder_keeps_for_the_backward_pass():
    def keep(**options):
        pipeline = pipeline_with(**options)
        pixels = PIXELS.clone().requires_grad_()
        kept = memory_use(lambda: pipeline.encode_images(pixels)).kept_bytes
        peak = memory_use(lambda: pipeline.encode_images(pixels).sum().backward()).peak_bytes
        return kept, peak

    plain, checkpointed = keep(), keep(vae_checkpointing=True)
    sliced = keep(vae_checkpointing=True, vae_slicing=True)
    assert checkpointed[0] < 0.3 * plain[0]
    assert sliced[1] < checkpointed[1] < plain[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryOptions(encoder="sell"), "encoder is 'sell', must be one of keep, offload"),
        (lambda: precision("half", "cpu"), "precision is 'half', must be one of auto, float32"),
    ],
)
def test_what_cannot_be_is_found_out_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_precisions_by_name():
    assert precision("auto", "cpu") == torch.float32
    assert precision("auto", "cuda") == torch.float16
    assert precision("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells what the processor can do")
def test_bfloat16_where_the_processor_has_it():
    instructions = set(Path("/proc/cpuinfo").read_text().split())
    if {"avx512_bf16", "amx_bf16"} & instructions:
        assert computes_in_bfloat16("cpu")
    elif "avx2" in instructions and "avx512bw" not in instructions:
        assert not computes_in_bfloat16("cpu")
    else:
        pytest.skip("a processor in between, or another architecture")
