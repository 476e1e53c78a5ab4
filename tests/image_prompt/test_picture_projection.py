"""A picture's own pixels come onto the side of a mesh that it shows, and nowhere else."""

from dataclasses import replace

import pytest
import torch
import trimesh

from imagedream.image_prompt.picture_projection import (
    LEAST_CERTAINTY,
    Placement,
    add_picture_detail,
    fits_better_from,
    is_visible,
    judge,
    project_picture,
    textured_caster,
)
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.mesh.isosurface import sample_density
from imagedream.mesh.surface import clean_surface, extract_surface
from imagedream.mesh.texture import texels, unwrap
from imagedream.mesh.writing import TexturedMesh
from tests import arrow

SIZE = 128


def camera(azimuth_deg, elevation_deg=15.0, **values):
    known = {"certainty": 0.9, "silhouette_iou": 0.9}
    return PromptCamera(azimuth_deg, elevation_deg, 2.0, 40.0, (0.0, 0.0), **(known | values))


def painted(mesh, colour_fn):
    places = texels(mesh, SIZE)
    return TexturedMesh(mesh, places.picture(colour_fn(places.positions)))


def dull(points):
    """Half the colour, half grey: what an optimisation has made of the arrow."""
    return 0.5 * arrow.colour(points) + 0.25


@pytest.fixture(scope="module")
def sharp():
    surface = extract_surface(sample_density(arrow.density(), 40, radius=1.0), 50.0)
    return painted(unwrap(clean_surface(surface, 0.02, 0, 2000)[0], SIZE), arrow.colour)


@pytest.fixture(scope="module")
def blurred(sharp):
    return painted(sharp.mesh, dull)


def seen_from(model, place):
    """A picture whose frame is the camera's own."""
    caster = textured_caster(model)
    fov = torch.tensor([place.fov_y_deg])
    return caster.render(Placement(place).camera_to_world, fov, SIZE, light=None).rgba[0]


def difference(model, other, chosen):
    return (texel_colours(model) - texel_colours(other)).abs().mean(-1)[chosen].mean()


def texel_colours(model):
    return torch.from_numpy(model.base_colour[texels(model.mesh, SIZE).mask]).float() / 255


@pytest.fixture(scope="module")
def detailed(sharp, blurred):
    """Of a picture whose camera is 4° and 2% of the frame wrong."""
    wrong = replace(camera(39.0, 12.0), offset=(0.02, -0.01))
    return add_picture_detail(blurred, [seen_from(sharp, camera(35.0))], [wrong])


def test_the_side_that_is_shown_takes_the_pictures_colours_and_the_other_keeps_its_own(
    sharp, blurred, detailed
):
    model, (record,) = detailed
    assert record["refused"] is None
    places = texels(sharp.mesh, SIZE)
    towards = Placement(camera(35.0)).camera_to_world[0, :3, 2]
    cosine = places.normals @ towards
    assert difference(blurred, sharp, cosine > 0.7) > 0.1
    assert difference(model, sharp, cosine > 0.7) < 0.04
    assert (texel_colours(model) == texel_colours(blurred))[cosine < -0.1].all()
    before, after = record["psnr_db"]
    assert after > before + 5
    assert record["ssim"][1] > record["ssim"][0]


def test_the_camera_is_refined(detailed):
    _, (record,) = detailed
    before, after = record["iou"]
    assert after > max(before, 0.93)
    found = PromptCamera.from_dict(record["camera"])
    assert abs(found.azimuth_deg - 35) < 2
    assert abs(found.elevation_deg - 15) < 2
    assert found.offset == pytest.approx((0, 0), abs=0.008)
    assert abs(record["roll_deg"]) < 1.5


def test_a_picture_is_refused_whose_camera_is_on_the_other_side(sharp, blurred):
    """A two-faced trap: the arrow is symmetric, so its outline from the front fits from the back too."""
    front = seen_from(sharp, camera(0.0, 0.0))
    model, (record,) = add_picture_detail(blurred, [front], [camera(-180.0, 0.0)])
    assert model is blurred
    assert "but it fits better from" in record["refused"]


def test_other_sides_are_compared_all_around(sharp, blurred):
    caster, picture = textured_caster(blurred), seen_from(sharp, camera(90.0))
    assert fits_better_from(picture, caster, camera(90.0)) is None
    for wrong_deg in (-90.0, 150.0, -150.0):
        assert fits_better_from(picture, caster, camera(wrong_deg)) == pytest.approx(90, abs=30)


def test_a_doubtful_camera_is_refused_before_anything_is_rendered(sharp, blurred):
    model, (record,) = add_picture_detail(
        blurred, [torch.zeros(4, 8, 8)], [camera(0.0, certainty=LEAST_CERTAINTY - 0.01)]
    )
    assert model is blurred
    assert record["refused"] == "its camera is 49% certain, needed are 50%"


@pytest.mark.slow
def test_a_picture_of_another_shape_is_refused(sharp, blurred):
    """The arrow twice as high; from its side it is 0.55 high, and the frame 1.46."""
    picture = seen_from(sharp, camera(90.0))
    high = torch.nn.functional.interpolate(picture[None], (2 * SIZE, SIZE), mode="bilinear")[0]
    high = high[:, SIZE // 2 : -SIZE // 2]
    model, (record,) = add_picture_detail(blurred, [high], [camera(90.0)])
    assert model is blurred
    assert "(IoU), needed are 0.8" in record["refused"]


def test_nothing_is_kept_that_makes_the_mesh_look_less_like_the_picture(sharp, blurred):
    place = camera(35.0)
    picture, casters = seen_from(sharp, place), [textured_caster(model) for model in (sharp, blurred)]
    record = judge(picture, Placement(place), *casters)
    assert record["refused"].startswith("the mesh would look less like it from its camera: psnr_db")
    assert judge(picture, Placement(place), *reversed(casters))["refused"] is None


def test_other_sides_must_not_look_less_like_the_picture(sharp, blurred):
    def redness(pictures):  # of two dimensions, so that a picture on white is like another the less red it is
        red = (pictures[:, 0] - pictures[:, 1]).clamp_min(0).mean((1, 2)) * 40
        return torch.stack([torch.cos(red), torch.sin(red)], dim=-1)

    place = camera(90.0)  # the left, which is green; the right is redder with sharp colours
    casters = textured_caster(blurred), textured_caster(sharp)
    record = judge(seen_from(sharp, place), Placement(place), *casters, redness)
    assert len(record["similarity_change"]) == 8
    assert "the mesh would look less like it: CLIP similarity -" in record["refused"]


def test_what_hides_behind_something_is_not_visible():
    near, far = (trimesh.creation.box((0.2, side, side)) for side in (0.3, 1.0))
    near.apply_translation((1.0, 0, 0))
    scene = trimesh.util.concatenate([near, far])
    places = texels(unwrap(scene, 64), 64)
    seen = is_visible(places, scene, torch.tensor([4.0, 0, 0]))
    x, y, z = places.positions.unbind(-1)
    on_near, on_far = x > 1.0999, (x > 0.0999) & (x < 0.1001)
    # from 4, the near front at 1.1 shadows ±0.15 · 3.9 / 2.9 = ±0.202 of the far front at 0.1
    outside = torch.maximum(y.abs(), z.abs())
    assert on_near.any()
    assert seen[on_near].all()
    assert not seen[on_far & (outside < 0.19)].any()
    assert seen[on_far & (outside > 0.21)].all()
    assert not seen[x < -0.0999].any()


def test_a_picture_counts_with_the_fourth_power_of_the_cosine_away_from_edges():
    """A large plate, turned by 40°, whose picture is one colour."""
    plate = trimesh.creation.box((0.02, 1.0, 1.0))
    place = camera(40.0, 0.0)
    places = texels(unwrap(plate, 64), 64)
    flat = torch.zeros_like(places.normals)
    flat[:, 0] = places.positions[:, 0].sign()
    places = replace(places, normals=flat)
    picture = torch.ones(4, 64, 64)
    picture[1] = 0.25
    colours, weights = project_picture(picture, Placement(place), places, plate)
    front = places.positions[:, 0] > 0.0099
    assert front.any()
    middle = front & (places.positions.abs().amax(-1) < 0.3)
    towards = torch.nn.functional.normalize(
        Placement(place).camera_to_world[0, :3, 3] - places.positions, dim=-1
    )
    torch.testing.assert_close(weights[middle], towards[middle, 0] ** 4, rtol=0.02, atol=0.0)
    assert colours[middle].mean(0).tolist() == pytest.approx([1, 0.25, 1], abs=0.005)
    assert (weights[front & (places.positions.abs().amax(-1) > 0.495)] < 0.3).all()
    assert (weights[places.positions[:, 0] < -0.0099] == 0).all()


@pytest.mark.slow
def test_several_pictures_each_paint_their_own_side(sharp, blurred):
    places = camera(45.0), camera(-135.0)
    model, records = add_picture_detail(blurred, [seen_from(sharp, place) for place in places], places)
    assert [record["refused"] for record in records] == [None, None]
    normals = texels(sharp.mesh, SIZE).normals
    for place in places:
        facing = normals @ Placement(place).camera_to_world[0, :3, 2] > 0.7
        assert difference(model, sharp, facing) < 0.3 * difference(blurred, sharp, facing)
