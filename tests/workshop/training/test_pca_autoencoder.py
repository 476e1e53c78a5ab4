import pytest
import torch
from diffusers import AutoencoderKL

from imagedream.workshop.training.autoencoder import edge_weights
from imagedream.workshop.training.pca_autoencoder import lay_principal_components


def autoencoder(latents: int, **options) -> AutoencoderKL:
    settings = dict(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=latents,
    )
    return AutoencoderKL(**{**settings, **options}).eval()


def smooth_pictures(count: int, size: int = 32) -> torch.Tensor:
    noise = torch.randn(count, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (size, size), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def test_the_encoder_is_linear():
    vae, pictures = autoencoder(12), smooth_pictures(40)
    lay_principal_components(vae, pictures)
    encode = lambda x: vae.encode(x).latent_dist.mode()  # noqa: E731
    a, b, zero = pictures[:4], pictures[4:8], torch.zeros_like(pictures[:4])
    torch.testing.assert_close(
        encode(0.3 * a + 0.7 * b), 0.3 * encode(a) + 0.7 * encode(b), atol=3e-3, rtol=1e-3
    )
    assert (encode(a) - encode(zero)).abs().max() > 0.1
    assert vae.encode(a).latent_dist.std.max() < 1e-4


@torch.no_grad()
def test_as_good_as_the_principal_components_of_whole_patches():
    latents, pictures = 12, smooth_pictures(120)
    vae = autoencoder(latents)
    lay_principal_components(vae, pictures)
    patches = pictures.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)
    # what the best linear code of this size leaves over: the sum of the smaller eigenvalues
    left_over = torch.linalg.eigvalsh(patches.double().T.cov()).flip(0)[latents:].sum() / 192
    codes = vae.encode(pictures).latent_dist.mode().permute(0, 2, 3, 1).reshape(-1, latents)
    codes = torch.cat([codes, torch.ones(len(codes), 1)], dim=1)
    error = (codes @ torch.linalg.lstsq(codes, patches).solution - patches).square().mean()
    assert left_over * 0.99 < error < left_over * 1.1


@torch.no_grad()
def test_components_come_with_the_square_root_of_their_deviation():
    vae, pictures = autoencoder(8), smooth_pictures(120)
    lay_principal_components(vae, pictures)
    codes = vae.encode(pictures).latent_dist.mode().transpose(0, 1).flatten(1)
    torch.testing.assert_close(codes.mean(1), torch.zeros(8), atol=5e-3, rtol=0)
    deviation = codes.std(1)
    assert (deviation.diff() < 1e-3).all()  # largest first
    off_diagonal = codes.cov() - codes.var(1).diag()
    assert off_diagonal.abs().max() < 0.01 * deviation[0] ** 2


def test_shapes_it_cannot_be_laid_into():
    with pytest.raises(ValueError, match="norm_num_groups 1"):
        lay_principal_components(autoencoder(12, norm_num_groups=8), smooth_pictures(4))
    with pytest.raises(ValueError, match="64 latent channels need more than 128"):
        lay_principal_components(autoencoder(64), smooth_pictures(4))


def test_edges_of_pictures_count_more():
    weights = edge_weights(4, 3, edge=6.0)
    # rows: 36 6 36, twice 6 1 6, and again 36 6 36: their sum is 2 * 78 + 2 * 13 = 182
    expected = torch.tensor([[36, 6, 36], [6, 1, 6], [6, 1, 6], [36, 6, 36]]) * 12 / 182
    torch.testing.assert_close(weights, expected)
