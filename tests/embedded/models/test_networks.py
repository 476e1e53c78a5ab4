import pytest
import torch

from threestudio.models.networks import HashGrid, get_encoding, get_mlp, grid_levels


def _grid(**changes):
    config = {
        "otype": "HashGrid",
        "n_levels": 1,
        "n_features_per_level": 2,
        "log2_hashmap_size": 12,
        "base_resolution": 5,
        "per_level_scale": 2.0,
    } | changes
    return config


def _random_grid(**changes):
    torch.manual_seed(0)
    grid = HashGrid(_grid(**changes)).double()
    torch.nn.init.normal_(grid.params)
    return grid


def test_default_table_has_the_published_size():
    # threestudio's default: 16 levels of a 2^19 table, 5 of them dense: 6 299 960 rows
    levels = grid_levels(16, 19, 16, 1.447269237440378)
    assert levels[-1].first_row + levels[-1].rows == 6_299_960
    assert [level.is_dense for level in levels] == [True] * 5 + [False] * 11
    assert (levels[0].resolution, levels[0].scale) == (16, 15.0)


def test_dense_level_interpolates_linear_functions_exactly():
    grid = _random_grid()
    z, y, x = torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij")
    values = torch.stack([x + 10 * y + 100 * z, x], dim=-1).reshape(-1, 2).double()
    with torch.no_grad():
        grid.params.view(-1, 2)[:125] = values
    points = torch.rand(50, 3, dtype=torch.float64) * (3.5 / 4)
    at = points * grid.levels[0].scale + 0.5  # the table's own coordinates
    expected = torch.stack([at @ torch.tensor([1.0, 10.0, 100.0]).double(), at[:, 0]], dim=-1)
    torch.testing.assert_close(grid(points), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_grid_sample_equals_gathering_corners(threads):
    grid = _random_grid()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        results = []
        for read in (grid.read_level, grid.gather):
            torch.manual_seed(1)
            points = torch.rand(4099, 3, dtype=torch.float64, requires_grad=True)
            features = read(points, grid.levels[0], grid.params.view(-1, 2))
            (slope,) = torch.autograd.grad(features.square().sum(), points, create_graph=True)
            second = torch.autograd.grad(slope.square().sum(), [grid.params, points])
            results.append([features, slope, *second])
    finally:
        torch.set_num_threads(before)
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_hash_is_the_published_one():
    grid = _random_grid(base_resolution=64)
    expected = ((3 ^ (5 * 2654435761 % 2**32)) ^ (7 * 805459861 % 2**32)) % 2**12
    assert grid._rows_of(torch.tensor([[3, 5, 7]]), grid.levels[0]).item() == expected


def test_hashed_levels_are_twice_differentiable():
    grid = _random_grid(base_resolution=20, log2_hashmap_size=8)
    points = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(grid, points)


def test_spherical_harmonics_are_those_of_scipy():
    from scipy.special import sph_harm_y

    direction = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = torch.nn.functional.normalize(direction, dim=-1)
    values = get_encoding(3, {"otype": "SphericalHarmonics"})((direction + 1) / 2)
    polar, azimuth = direction[:, 2].acos().numpy(), torch.atan2(direction[:, 1], direction[:, 0]).numpy()
    expected = []
    for degree in range(3):
        for order in range(-degree, degree + 1):
            complex_value = sph_harm_y(degree, abs(order), polar, azimuth)
            part = complex_value.imag if order < 0 else complex_value.real
            expected.append(torch.from_numpy(part) * (2**0.5 if order else 1))
    torch.testing.assert_close(values, torch.stack(expected, dim=-1))
    assert get_encoding(3, {"otype": "SphericalHarmonics", "degree": 1})(direction).shape == (20, 1)


def test_mlp_is_linear_relu_linear():
    config = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 2, "output_activation": "sigmoid"}
    mlp = get_mlp(4, 3, config)
    assert list(mlp.state_dict()) == ["layers.0.weight", "layers.2.weight", "layers.4.weight"]
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(mlp(x), torch.sigmoid(mlp.layers(x)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mlp(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "inputs", "config", "message"),
    [
        (get_encoding, (3,), {"otype": "OneBlob"}, "known here are HashGrid, SphericalHarmonics; the rest is thr"),
        (get_encoding, (2,), _grid(), "encodings have 3 inputs here, got 2"),
        (get_encoding, (3,), _grid(n_level=3), r"does not know the keys \['n_level'\]; it knows .*base_resolution"),
        (get_encoding, (3,), {"otype": "SphericalHarmonics", "degree": 4}, "must be 1, 2 or 3"),
        (get_mlp, (3, 3), {"otype": "FullyFusedMLP"}, "known here are VanillaMLP; the rest is threestudio's"),
        (get_mlp, (3, 3), {"otype": "VanillaMLP", "activation": "SiLU"}, "'SiLU', must be 'ReLU'"),
    ],
)  # fmt: skip
def test_unknown_names_list_the_known_ones(make, inputs, config, message):
    with pytest.raises(ValueError, match=message):
        make(*inputs, config)
