import math

import numpy as np
import pytest
import torch
import trimesh

from imagedream.metrics import chamfer_distance, image_scores, psnr, silhouette, silhouette_iou, ssim


def test_psnr_by_hand():
    targets = torch.zeros(2, 3, 4, 4)
    images = torch.zeros(2, 3, 4, 4)
    images[0] = 0.1  # mean squared error 0.01: 20 dB
    images[1, :, 0, 0] = 1.0  # one pixel of 16: 10 log10(16) = 12.04 dB
    torch.testing.assert_close(psnr(images, targets), torch.tensor([20.0, 10 * math.log10(16)]))


def test_identical_images_score_the_most():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert psnr(images, images).tolist() == [100, 100]
    torch.testing.assert_close(ssim(images, images), torch.ones(2))
    assert silhouette_iou(silhouette(images), silhouette(images)).tolist() == [1, 1]


def test_ssim():
    # constant images have no variance, so SSIM = (2 a b + c1) / (a^2 + b^2 + c1) with c1 = 0.01^2
    a, b = 0.8, 0.4
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    found = ssim(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-4, rtol=0)
    # each image by itself, whatever is beside it
    images, targets = torch.rand(2, 3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(images, targets)[1:2], ssim(images[1:2], targets[1:2]))
    with pytest.raises(ValueError, match="8 x 8 pixels, SSIM needs at least 11 x 11"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_silhouette_against_its_background():
    image = torch.ones(1, 3, 1, 3)
    image[0, 2, 0, 1] = 0.5  # yellowish: one channel suffices
    image[0, :, 0, 2] = 0.95  # too faint
    assert silhouette(image).tolist() == [[[False, True, False]]]
    assert silhouette(image, (1.0, 1.0, 0.5)).tolist() == [[[True, False, True]]]


def test_silhouette_iou_by_hand():
    shown, true = torch.zeros(3, 2, 2, dtype=torch.bool), torch.zeros(3, 2, 2, dtype=torch.bool)
    shown[0, 0], true[0, :, 0] = True, True  # top row and left column: 1 of 3 pixels
    shown[1, 0] = True  # nothing to find: 0
    assert silhouette_iou(shown, true).tolist() == pytest.approx([1 / 3, 0, 1])


def plane(height):
    return trimesh.Trimesh(
        [[0, 0, height], [1, 0, height], [1, 1, height], [0, 1, height]], [[0, 1, 2], [0, 2, 3]]
    )


def test_chamfer_of_parallel_planes_is_their_distance():
    # with the nearest sample about 0.5 / sqrt(20000) = 0.0035 aside: sqrt(0.1^2 + 0.0035^2) = 0.10006
    assert chamfer_distance(plane(0.0), plane(0.1), samples=20_000) == pytest.approx(0.1, rel=5e-3)


def test_chamfer_of_equal_surfaces_is_the_spacing_of_samples():
    found = chamfer_distance(plane(0.0), plane(0.0), samples=20_000)
    assert found == pytest.approx(0.5 * math.sqrt(1 / 20_000), rel=0.1)


def test_chamfer_of_concentric_spheres_is_symmetric_and_seeded():
    small, large = trimesh.creation.icosphere(4, radius=1.0), trimesh.creation.icosphere(4, radius=1.2)
    found = chamfer_distance(small, large, samples=5000)
    # the nearest sample lies about 0.5 * sqrt(4 pi / 5000) = 0.025 aside: sqrt(0.2^2 + 0.03^2) = 0.2022
    assert found == pytest.approx(0.2022, rel=0.01)
    assert chamfer_distance(large, small, samples=5000) == pytest.approx(found, rel=1e-3)
    assert chamfer_distance(small, large, samples=5000) == found
    assert chamfer_distance(small, large, samples=5000, seed=1) != found


def test_chamfer_refuses_an_empty_mesh():
    with pytest.raises(ValueError, match="no faces"):
        chamfer_distance(plane(0.0), trimesh.Trimesh(np.eye(3)))


def test_image_scores_are_means_over_views():
    images, targets = torch.ones(2, 3, 16, 16), torch.ones(2, 3, 16, 16)
    images[0] -= 0.1
    scores = image_scores(images, targets)
    assert scores["psnr_db"] == pytest.approx((20 + 100) / 2, abs=1e-3)
    assert scores["iou"] == pytest.approx(0.5)  # everything against nothing, nothing against nothing
