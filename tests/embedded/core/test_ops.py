import math

import pytest
import torch

from threestudio.utils import ops


def test_chunks_give_what_the_whole_gives():
    x, y = torch.arange(10.0).reshape(5, 2), torch.ones(5, 1)

    def function(a, b, scale):
        return {"sum": (a + b) * scale, "nothing": None}

    whole = function(x, y, 2.0)
    chunked = ops.chunk_batch(function, 2, x, b=y, scale=2.0)
    assert torch.equal(chunked["sum"], whole["sum"])
    assert chunked["nothing"] is None
    first, second = ops.chunk_batch(lambda a: (a, 2 * a), 2, x)
    assert torch.equal(second, 2 * first)
    assert torch.equal(ops.chunk_batch(lambda a: a, 0, x), x)
    assert ops.chunk_batch(lambda a: None, 2, x) is None
    assert isinstance(ops.chunk_batch(lambda a: [a], 2, x), list)
    with torch.no_grad():
        assert not ops.chunk_batch(lambda a: a, 2, x.clone().requires_grad_()).requires_grad


ACTIVATIONS = {
    None: (-2.0, -2.0),
    "exp": (1.0, math.e),
    "shifted_trunc_exp": (2.0, math.e),
    "Sigmoid": (0.0, 0.5),
    "shifted_softplus": (1.0, math.log(2)),
    "softplus": (0.0, math.log(2)),
    "ReLU": (-1.0, 0.0),
}


def test_activations():
    for name, (x, expected) in ACTIVATIONS.items():
        assert ops.get_activation(name)(torch.tensor(x)).item() == pytest.approx(expected, rel=1e-5), name
    with pytest.raises(
        ValueError, match=r"'lin2srgb'; known: none, .* torch\.nn\.functional; the rest is thr"
    ):
        ops.get_activation("lin2srgb")


def test_truncated_exponential_gradient_stops_growing():
    x = torch.tensor([1.0, 20.0], requires_grad=True)
    ops.trunc_exp(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([math.e, math.exp(15)], rel=1e-5)


def test_ray_directions_of_a_2x4_image():
    directions = ops.get_ray_directions(2, 4, focal=2.0)
    assert directions.shape == (2, 4, 3)
    # leftmost upper pixel: its centre is 1.5 px left of and 0.5 px above the middle
    assert directions[0, 0].tolist() == [-0.75, 0.25, -1.0]
    assert directions[1, 3].tolist() == [0.75, -0.25, -1.0]


@pytest.mark.parametrize(
    ("directions", "cameras"),
    [((2, 4, 3), (5,)), ((2, 4, 3), ()), ((5, 2, 4, 3), (5,)), ((5, 3), (5,)), ((7, 3), ())],
)
def test_ray_shapes(directions, cameras):
    c2w = torch.eye(4).expand(*cameras, 4, 4).clone()
    c2w[..., :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    directions = torch.randn(directions)
    origins, rays = ops.get_rays(directions, c2w, keepdim=True)
    shape = (*cameras, *directions.shape) if directions.ndim == 3 else directions.shape
    assert origins.shape == rays.shape == shape
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(shape[:-1]))
    assert (origins == torch.tensor([1.0, 2.0, 3.0])).all()
    plain = ops.get_rays(directions, c2w, normalize=False)[1]
    assert torch.equal(plain, directions.expand(shape).reshape(-1, 3))


def test_projection():
    # 90 degrees up and down, twice as wide: at depth 2 the frame's top is at height 2, its right side at 4
    projection = ops.get_projection_matrix(torch.tensor([math.pi / 2]), 2.0, 0.1, 100.0)
    mvp = ops.get_mvp_matrix(torch.eye(4)[None], projection)[0]
    corner = mvp @ torch.tensor([4.0, 2.0, -2.0, 1.0])
    assert (corner[:2] / corner[3]).tolist() == pytest.approx([1.0, -1.0])  # y is flipped
    for depth, z in ((0.1, -1.0), (100.0, 1.0)):
        point = mvp @ torch.tensor([0.0, 0.0, -depth, 1.0])
        assert (point[2] / point[3]).item() == pytest.approx(z, abs=1e-4)


def test_small_maths():
    x, n = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert ops.dot(x, n).tolist() == [-1.0]
    assert ops.scale_tensor(torch.tensor(0.5), None, (-1, 3)).item() == 1.0
    half, one = torch.tensor([0.5]), torch.tensor([1.0])
    assert ops.binary_cross_entropy(half, one).item() == pytest.approx(math.log(2))
    # no samples become one without length
    samples = ops.validate_empty_rays(torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0))
    assert [value.tolist() for value in samples] == [[0], [0.0], [0.0]]
    assert [value.dtype for value in samples] == [torch.long, torch.float32, torch.float32]
