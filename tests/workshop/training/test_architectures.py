"""The published architecture has the published sizes; random pipelines of any architecture work in every precision."""

from functools import cache

import pytest
import torch

from benchmarks.random_weights import empty_pipeline, random_pipeline
from imagedream.encoders import ImageTextEncoder
from imagedream.model import predict_noise
from imagedream.workshop.training.architectures import architecture_of, fill, published_architecture
from tests.tiny import tiny_pipeline

TINY = architecture_of(tiny_pipeline())


@cache
def published(controllers="pixel"):
    """To be read only."""
    return empty_pipeline(published_architecture(controllers))


def parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_published_files_parameters():
    # the files' 8.05 GB in float32 are these three: 941.7 M + 83.7 M + 986.1 M
    pipeline = published()
    millions = [parameters(part) / 1e6 for part in (pipeline.unet, pipeline.vae, pipeline.encoder)]
    assert millions == pytest.approx([941.7, 83.7, 986.1], abs=0.05)
    assert all(parameter.is_meta for parameter in pipeline.unet.parameters())
    assert (pipeline.image_size, pipeline.latent_size) == (256, 32)


@pytest.mark.parametrize(
    ("controllers", "millions"),
    [
        ("none", 865.9 + 1.7),  # Stable Diffusion 2.1's 865.9 M and the camera's two layers
        ("global", 865.9 + 1.7 + 29.8),  # paper.md §1.3
        ("local", 865.9 + 1.7 + 74.1),
        ("pixel", 865.9 + 1.7 + 74.1),  # the pixel controller has no parameters of its own
    ],
)
def test_what_the_controllers_add(controllers, millions):
    assert parameters(published(controllers).unet) / 1e6 == pytest.approx(millions, abs=0.1)


def test_mvdream_reads_text_only():
    pipeline = published("none")
    assert not pipeline.encoder.reads_images
    # 5.22 GB in float32
    total = sum(parameters(part) for part in (pipeline.unet, pipeline.vae, pipeline.encoder))
    assert total * 4 / 1e9 == pytest.approx(5.22, abs=0.01)


def inputs(pipeline):
    generator = torch.Generator().manual_seed(1)
    dtype = pipeline.unet.dtype

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    condition = pipeline.encode_condition(torch.full((4, 16, 16), 0.5), "a ball", torch.ones(3))
    return (
        draw(1, 4, *pipeline.unet.latent_shape),
        torch.tensor([500]),
        draw(1, 4, 16),
        condition.text_tokens,
        condition.image_features,
        condition.prompt_latents,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_seed_gives_the_same_model_in_every_precision(dtype):
    exact, rounded = random_pipeline(TINY, seed=3), random_pipeline(TINY, seed=3, dtype=dtype)
    for part in ("unet", "vae", "encoder"):
        wanted = getattr(exact, part).state_dict()
        for key, value in getattr(rounded, part).state_dict().items():
            assert value.dtype == dtype
            assert torch.equal(value, wanted[key].to(dtype)), key
    output = predict_noise(rounded.unet, *inputs(rounded)).float()
    expected = predict_noise(exact.unet, *inputs(exact))
    assert 0.1 < expected.std() < 10
    assert (output - expected).norm() / expected.norm() < 0.1


def test_seeds_differ_and_no_two_parameters_are_alike():
    first, other = (random_pipeline(TINY, seed=seed).unet for seed in (0, 1))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    sums = [parameter.double().sum().item() for parameter in first.parameters()]
    assert len(set(sums)) == len(sums)


@torch.no_grad()
def test_what_is_built_empty_computes_what_the_constructor_builds():
    config = TINY.encoder
    usual = ImageTextEncoder(**config).eval()
    filled = empty_pipeline(TINY).encoder
    fill(filled, lambda name, parameter: torch.zeros(parameter.shape), "cpu")
    filled.load_state_dict(usual.state_dict())
    captions = ["a red ball", "a longer caption of a blue car"]
    torch.testing.assert_close(filled.encode_text(captions), usual.encode_text(captions))
