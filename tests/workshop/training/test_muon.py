"""Muon against singular values by LAPACK, and against torch's own where that one takes the parameter."""

import pytest
import torch
from torch import nn

from imagedream.workshop.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_what_is_left_of_a_matrix_are_its_directions(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    assert s.max() / s.min() > 5
    rotated = u.mT @ orthogonalize(1000 * matrices) @ vh.mT  # in the bases of the singular vectors: diagonal
    diagonal = rotated.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(rotated, torch.diag_embed(diagonal), atol=0.05, rtol=0)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


def steps(optimizer, parameters, gradients):
    for of_step in gradients:
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def test_steps_are_those_of_torch_with_kernels_as_matrices_and_vectors_by_adamw():
    generator = torch.Generator().manual_seed(1)
    matrices, others = [(6, 10), (9, 4), (6, 10), (8, 3, 3, 3)], [(7,), (1, 5, 4)]
    start = [torch.randn(shape, generator=generator) for shape in (*matrices, *others)]
    gradients = [[torch.randn(values.shape, generator=generator) for values in start] for _ in range(4)]
    ours = [nn.Parameter(values.clone()) for values in start]
    ours[3].data = ours[3].data.contiguous(memory_format=torch.channels_last)
    steps(Muon([{"params": ours, "weight_decay": 0.3}], lr=0.01, betas=(0.8, 0.9)), ours, gradients)

    flat = [nn.Parameter(values.flatten(1).clone()) for values in start[:4]]
    theirs = torch.optim.Muon(flat, lr=0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    steps(theirs, flat, [[gradient.flatten(1) for gradient in of_step[:4]] for of_step in gradients])
    rest = [nn.Parameter(values.clone()) for values in start[4:]]
    theirs = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), weight_decay=0.3)
    steps(theirs, rest, [of_step[4:] for of_step in gradients])
    for own, other, values in zip(ours, [*flat, *rest], start, strict=True):
        torch.testing.assert_close(own, other.reshape(own.shape), atol=3e-4, rtol=0)
        assert (own - values).abs().max() > 0.01


def test_a_saved_state_goes_on_alike():
    generator = torch.Generator().manual_seed(2)
    whole, parted = (
        [nn.Parameter(torch.ones(shape)) for shape in ((4, 6), (3, 2, 3, 3), (5,))] for _ in "ab"
    )
    gradients = [[torch.randn(values.shape, generator=generator) for values in whole] for _ in range(3)]
    steps(Muon([{"params": whole}], lr=0.01), whole, gradients)
    first, second = (Muon([{"params": parted}], lr=0.01) for _ in "ab")
    steps(first, parted, gradients[:2])
    second.load_state_dict(first.state_dict())
    steps(second, parted, gradients[2:])
    assert all(torch.equal(one, other) for one, other in zip(parted, whole, strict=True))
