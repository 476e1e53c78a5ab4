import torch

from threestudio.models.estimators import OccGridEstimator, accumulate_along_rays, render_weight_from_density


def _packed():
    """Random samples of seven rays, of which two have none."""
    generator = torch.Generator().manual_seed(0)
    ray_indices = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3, 3, 4, 5, 5])
    starts, length, density = torch.rand(3, len(ray_indices), generator=generator, dtype=torch.float64)
    values = torch.rand(len(ray_indices), 3, generator=generator, dtype=torch.float64)
    density = (3 * density).requires_grad_()
    return ray_indices, starts, starts + length, density, values.requires_grad_(), 7


def _by_loop(ray_indices, starts, ends, density, values, n_rays):
    """The definition, one sample after the other."""
    weights, images = [], []
    for ray in range(n_rays):
        transmittance, color = torch.ones((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for sample in (ray_indices == ray).nonzero()[:, 0].tolist():
            alpha = 1 - torch.exp(-density[sample] * (ends[sample] - starts[sample]))
            weights.append(transmittance * alpha)
            color = color + weights[-1] * values[sample]
            transmittance = transmittance * (1 - alpha)
        images.append(color)
    return torch.stack(weights), torch.stack(images)


def test_packed_rendering_equals_a_loop_with_gradients():
    ray_indices, starts, ends, density, values, n_rays = _packed()
    weights, transmittance, alpha = render_weight_from_density(starts, ends, density, ray_indices, n_rays)
    image = accumulate_along_rays(weights, values, ray_indices, n_rays)
    torch.testing.assert_close(transmittance * alpha, weights)
    opacity = accumulate_along_rays(weights, None, ray_indices, n_rays)[:, 0]
    depth = torch.zeros(n_rays, dtype=torch.float64).index_add(0, ray_indices, density * (ends - starts))
    torch.testing.assert_close(opacity, 1 - torch.exp(-depth))
    results = []
    seed = torch.randn(n_rays, 3, dtype=torch.float64)
    expected = _by_loop(ray_indices, starts, ends, density, values, n_rays)
    for one_weights, one_image in ((weights, image), expected):
        loss = (one_image * seed).sum() + one_weights.square().sum()
        results.append([one_weights, one_image, *torch.autograd.grad(loss, [density, values])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_running_sum_does_not_lose_thin_rays_behind_many_dense_ones():
    # 100 000 rays of optical depth 100, then one of 1e-3: a float32 running sum of 1e7 has steps of 1
    density = torch.cat([torch.full((100_000,), 100.0), torch.full((2,), 5e-4)])
    ray_indices = torch.cat([torch.arange(100_000), torch.tensor([100_000, 100_000])])
    zero = torch.zeros_like(density)
    weights, _, _ = render_weight_from_density(zero, zero + 1, density, ray_indices, 100_001)
    torch.testing.assert_close(weights[-2:].sum(), torch.tensor(9.995e-4), rtol=1e-4, atol=0)


def _grid(resolution):
    return OccGridEstimator(torch.tensor([-1.0] * 3 + [1.0] * 3), resolution)


def _full_grid(resolution=4):
    grid = _grid(resolution)
    grid.binaries.fill_(True)
    grid.occs.fill_(1.0)
    return grid


def _rays(count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 2.5
    targets = torch.rand(count, 3, generator=generator) * 2.4 - 1.2
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def test_steps_count_where_their_midpoints_are_occupied():
    torch.manual_seed(0)
    grid = _full_grid()
    grid.binaries[0] = torch.rand(4, 4, 4) > 0.6
    origins, directions = _rays()
    step = 0.07
    rays, starts, ends = grid.sampling(origins, directions, step)
    got = set(zip(rays.tolist(), (starts / step).round().int().tolist(), strict=True))
    torch.testing.assert_close(ends - starts, torch.full_like(starts, step))
    wanted = set()
    for number in range(80):
        middle = origins + directions * (number + 0.5) * step
        cell = ((middle + 1) * 2).floor().int()
        for ray in ((cell >= 0) & (cell < 4)).all(dim=-1).nonzero()[:, 0].tolist():
            if grid.binaries[0][tuple(cell[ray].tolist())]:
                wanted.add((ray, number))
    assert got == wanted
    assert (rays.diff() >= 0).all()


def test_jitter_shifts_the_steps_of_a_ray_by_less_than_a_step():
    torch.manual_seed(0)
    rays, starts, _ = _full_grid().sampling(*_rays(), 0.1, jitter=True)
    phase = (starts / 0.1) % 1
    same_ray = rays.diff() == 0
    distance = (phase.diff()[same_ray] + 0.5) % 1 - 0.5
    assert distance.abs().max() < 1e-3
    assert phase.std() > 0.2


def test_marching_in_chunks_changes_nothing(monkeypatch):
    whole = _full_grid().sampling(*_rays(), 0.05)
    monkeypatch.setattr("threestudio.models.estimators._LATTICE_CHUNK", 500)
    for one, other in zip(whole, _full_grid().sampling(*_rays(), 0.05), strict=True):
        assert torch.equal(one, other)


def test_transparent_and_hidden_samples_are_left_out():
    origins, directions = torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])

    def density(starts, ends, rays):  # clear in front of z = 0, then alpha 0.95 a step
        return torch.where((starts + ends) / 2 > 3.0, torch.log(torch.tensor(20.0)) / 0.1, 0.0)

    rays, starts, _ = _full_grid().sampling(origins, directions, 0.1, density=density)
    # transmittances 1, 0.05, 0.05², 0.05³ = 1.25e-4 stay, 0.05⁴ is below 1e-4
    torch.testing.assert_close(starts, torch.tensor([3.0, 3.1, 3.2, 3.3]))
    assert rays.tolist() == [0] * 4


def test_looking_front_to_back_keeps_the_same_samples(monkeypatch):
    origins, directions = _rays()
    asked = []

    def density(starts, ends, rays):
        asked.append(len(rays))
        points = origins[rays] + directions[rays] * ((starts + ends) / 2)[:, None]
        return 150 * (torch.sin(20 * points).sum(dim=-1) > 1)

    kept, counts = [], []
    for first in (4, 10_000):
        monkeypatch.setattr("threestudio.models.estimators._FIRST_SAMPLES", first)
        asked.clear()
        kept.append(_full_grid().sampling(origins, directions, 0.03, density=density))
        counts.append(sum(asked))
    for one, other in zip(*kept, strict=True):
        assert torch.equal(one, other)
    assert counts[0] < counts[1]  # what is hidden was not asked for


def test_no_occupied_cell_and_no_ray():
    origins, directions = _rays(10)
    assert len(_grid(4).sampling(origins, directions, 0.1)[0]) == 0
    assert len(_full_grid().sampling(origins[:0], directions[:0], 0.1)[0]) == 0


def _ball(points):
    return (points.norm(dim=-1, keepdim=True) < 0.5).float()


def test_grid_learns_where_a_ball_is():
    torch.manual_seed(0)
    grid = _grid(16)
    grid.update(1, _ball)
    assert not grid.binaries.any()  # only every 16th step
    for step in range(0, 64, 16):
        grid.update(step, _ball)
    centers = (torch.arange(16) + 0.5) / 8 - 1
    distance = torch.stack(torch.meshgrid(centers, centers, centers, indexing="ij")).norm(dim=0)
    half_diagonal = 3**0.5 / 16
    assert grid.binaries[0][distance < 0.5 - half_diagonal].all()
    assert not grid.binaries[0][distance > 0.5 + half_diagonal].any()


def test_after_the_warm_up_some_cells_are_looked_at_and_all_forget():
    torch.manual_seed(0)
    grid = _full_grid(8)
    looked = []

    def empty(points):
        looked.append(len(points))
        return torch.zeros(len(points), 1)

    grid.update(256, empty)
    assert looked == [128 + 128]
    assert set(grid.occs.unique().tolist()) == {1.0, torch.tensor(0.95).item()}
