import math

import pytest
import torch

from threestudio.models.networks import (
    HashGrid,
    VanillaMLP,
    create_network_with_input_encoding,
    get_encoding,
    get_mlp,
    grid_levels,
)


def _grid(**changes):
    config = {
        "otype": "HashGrid",
        "n_levels": 2,
        "n_features_per_level": 2,
        "log2_hashmap_size": 12,
        "base_resolution": 5,
        "per_level_scale": 2.0,
    } | changes
    return config


def _random_grid(**changes):
    torch.manual_seed(0)
    grid = HashGrid(3, _grid(**changes)).double()
    torch.nn.init.normal_(grid.params)
    return grid


def test_default_table_has_the_published_size():
    # threestudio's default: 16 levels of a 2^19 table, 5 of them dense: 6 299 960 rows
    levels = grid_levels(3, 16, 19, 16, 1.447269237440378)
    assert levels[-1].first_row + levels[-1].rows == 6_299_960
    assert [level.is_dense(3) for level in levels] == [True] * 5 + [False] * 11
    assert levels[0].resolution == 16
    assert levels[0].scale == 15.0


def test_dense_level_interpolates_linear_functions_exactly():
    grid = _random_grid(n_levels=1)
    level = grid.levels[0]
    z, y, x = torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij")
    values = torch.stack([x + 10 * y + 100 * z, x], dim=-1).reshape(-1, 2).double()
    with torch.no_grad():
        grid.params.view(-1, 2)[:125] = values
    points = torch.rand(50, 3, dtype=torch.float64) * (3.5 / 4)
    at = points * level.scale + 0.5  # the table's own coordinates
    expected = torch.stack([at @ torch.tensor([1.0, 10.0, 100.0]).double(), at[:, 0]], dim=-1)
    torch.testing.assert_close(grid(points), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_grid_sample_equals_gathering_corners(threads):
    grid = _random_grid(n_levels=1)
    level = grid.levels[0]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        results = []
        for read in (grid.read_level, grid.gather):
            torch.manual_seed(1)
            points = torch.rand(4099, 3, dtype=torch.float64, requires_grad=True)
            features = read(points, level, grid.params.view(-1, 2))
            (slope,) = torch.autograd.grad(features.square().sum(), points, create_graph=True)
            second = torch.autograd.grad(slope.square().sum(), [grid.params, points])
            results.append([features, slope, *second])
    finally:
        torch.set_num_threads(before)
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_hashed_level_without_collisions_equals_the_dense_one():
    # a table too small for 9³ = 729 vertices hashes them; give every row the value that its vertex has when dense
    dense = _random_grid(n_levels=1, base_resolution=9, log2_hashmap_size=10)
    hashed = _random_grid(n_levels=1, base_resolution=9, log2_hashmap_size=9)
    level = hashed.levels[0]
    assert dense.levels[0].is_dense(3)
    assert not level.is_dense(3)
    points = torch.rand(200, 3, dtype=torch.float64)
    corner = (points * level.scale + 0.5).floor().long()
    for number in range(len(points)):  # one point at a time: 8 corners of one cell do not collide
        corners = torch.cartesian_prod(*[torch.tensor([c, c + 1]) for c in corner[number].tolist()]).clamp(
            max=8
        )
        rows = hashed._rows_of(corners, level)
        if rows.unique().numel() < 8:
            continue
        with torch.no_grad():
            hashed.params.view(-1, 2)[rows] = dense.params.view(-1, 2)[
                dense._rows_of(corners, dense.levels[0])
            ]
        point = points[number : number + 1]
        if (corner[number] < 8).all():
            torch.testing.assert_close(hashed(point), dense(point))


def test_hash_is_the_published_one():
    grid = _random_grid(n_levels=1, base_resolution=64, log2_hashmap_size=12)
    vertex = torch.tensor([[3, 5, 7]])
    expected = ((3 ^ (5 * 2654435761 % 2**32)) ^ (7 * 805459861 % 2**32)) % 2**12
    assert grid._rows_of(vertex, grid.levels[0]).item() == expected


def test_hashed_levels_are_twice_differentiable():
    grid = _random_grid(n_levels=1, base_resolution=20, log2_hashmap_size=8)
    points = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(grid, points)


def test_spherical_harmonics_match_closed_forms():
    encoding = get_encoding(3, {"otype": "SphericalHarmonics", "degree": 4})
    direction = torch.nn.functional.normalize(
        torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    x, y, z = direction.unbind(-1)
    values = encoding((direction + 1) / 2)
    assert values.shape == (20, 16)
    expected = {
        0: torch.full_like(x, 0.28209479),
        1: -0.48860251 * y,
        2: 0.48860251 * z,
        3: -0.48860251 * x,
        4: 1.09254843 * x * y,
        6: 0.94617470 * z * z - 0.31539157,
        8: 0.54627422 * (x * x - y * y),
        9: 0.59004359 * y * (y * y - 3 * x * x),
        13: 0.45704580 * x * (1 - 5 * z * z),
    }
    for index, value in expected.items():
        torch.testing.assert_close(values[:, index], value, atol=1e-5, rtol=1e-5)


def test_frequency_is_sine_and_cosine_per_dimension():
    encoding = get_encoding(2, {"otype": "Frequency", "n_frequencies": 2})
    x = torch.tensor([[0.25, 0.1]])
    angles = [0.25 * math.pi, 0.5 * math.pi, 0.1 * math.pi, 0.2 * math.pi]
    expected = torch.tensor([[value for a in angles for value in (math.sin(a), math.cos(a))]])
    torch.testing.assert_close(encoding(x), expected)


def test_include_xyz_puts_the_input_first():
    encoding = get_encoding(3, {"otype": "Identity", "include_xyz": True})
    x = torch.tensor([[0.0, 0.5, 1.0]])
    assert encoding.n_output_dims == 6
    torch.testing.assert_close(encoding(x), torch.tensor([[-1.0, 0.0, 1.0, 0.0, 0.5, 1.0]]))


def test_progressive_hash_grid_adds_levels():
    config = _grid(
        otype="ProgressiveBandHashGrid", n_levels=4, start_level=1, start_step=100, update_steps=50
    )
    encoding = get_encoding(3, config)
    torch.nn.init.normal_(encoding.encoding.encoding.params)
    x = torch.rand(10, 3)
    for step, levels in ((0, 1), (149, 1), (150, 2), (1000, 4)):
        encoding.do_update_step(0, step)
        features = encoding(x)
        assert features.shape == (10, 8)
        assert (features[:, : 2 * levels] != 0).all()
        assert (features[:, 2 * levels :] == 0).all()


def test_progressive_frequency_fades_bands_in():
    encoding = get_encoding(
        3, {"otype": "ProgressiveBandFrequency", "n_frequencies": 2, "n_masking_step": 100}
    )
    x = torch.rand(5, 3)
    torch.testing.assert_close(encoding(x)[:, :3], torch.sin(x))
    torch.testing.assert_close(encoding(x)[:, 9:], torch.cos(2 * x))
    encoding.do_update_step(0, 25)  # first band half in: (1 − cos(π/2)) / 2
    torch.testing.assert_close(encoding(x)[:, :3], torch.sin(x) / 2)
    assert (encoding(x)[:, 6:] == 0).all()


def test_mlp_is_linear_relu_linear():
    config = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 2, "output_activation": "sigmoid"}
    mlp = get_mlp(4, 3, config)
    assert list(mlp.state_dict()) == ["layers.0.weight", "layers.2.weight", "layers.4.weight"]
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(mlp(x), torch.sigmoid(mlp.layers(x)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mlp(x).dtype == torch.float32


@pytest.mark.parametrize("otype", ["FullyFusedMLP", "CutlassMLP"])
def test_fused_networks_are_plain_ones_on_a_cpu(otype):
    network = create_network_with_input_encoding(
        3,
        2,
        {"otype": "Frequency", "n_frequencies": 2},
        {"otype": otype, "activation": "ReLU", "n_neurons": 16},
    )
    assert isinstance(network.network, VanillaMLP)
    assert network(torch.rand(7, 3)).shape == (7, 2)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="SphericalHarmonics"):
        get_encoding(3, {"otype": "OneBlob"})
    with pytest.raises(ValueError, match="base_resolution"):
        get_encoding(3, _grid(n_level=3))
    with pytest.raises(ValueError, match="VanillaMLP"):
        get_mlp(3, 3, {"otype": "SphereInitVanillaMLP"})
