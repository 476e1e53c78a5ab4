"""The picture's own pixels on the side of a mesh that it shows.

A field is optimised from small renders, so its mesh is blurred where the picture is sharp. `add_picture_detail` lays the
picture itself on the texture: its estimated camera is refined against the mesh, and what the picture shows well takes its
colours. A picture that does not pass the gates before and after changes nothing. Nothing is random.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
import trimesh
from jaxtyping import Bool, Float
from scipy import ndimage, optimize
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, normalize

from imagedream import cameras
from imagedream.image_prompt.prompt_camera import (
    COLOR,
    SILHOUETTE,
    PromptCamera,
    agreements,
    centre_and_radius,
    log_likelihood,
    reframed,
    white_behind,
)
from imagedream.mesh.materials import Surface, Texture
from imagedream.mesh.raycast import Raycaster, embree_scene
from imagedream.mesh.texture import Texels, fill_gaps, texels
from imagedream.mesh.writing import TexturedMesh
from imagedream.metrics import psnr, ssim
from imagedream.pictures import over_white, premultiplied

EmbedFunction = Callable[[Tensor], Tensor]
"""Pictures (picture, 3, height, width) in [0, 1] -> normalised embeddings (picture, width), such as CLIP's."""

LEAST_CERTAINTY = 0.5
"""Of a camera's azimuth."""
LEAST_IOU = 0.8
"""Of the silhouettes of picture and mesh from the refined camera."""
OTHER_SIDE_DEG = 45.0
"""A picture that fits better from this far away or more is not laid where its camera is said to be."""
EMBEDDING_NOISE = 0.05
"""Loss of similarity to the picture that means nothing, of any view. The small model's CLIP moves by 0.03 where a face appears
on one side that another just sees the edge of."""
FIELD_WEIGHT = 0.02
"""Of the texture's own colours, where a picture's have the fourth power of the cosine between normal and view."""

_REFINE_PX, _MATCH_PX, _EDGE_PX, _JUDGE_PX = 64, 48, 256, 192
_EDGE = 0.015  # sides of the frame: nearer than that to an edge a picture counts less
_DEPTH_STEP = 0.02  # sides of the frame: where neighbouring pixels differ more, one thing hides another
_AROUND = 12


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the frame of an upright camera that looks at the origin and sees all of the object."""

    camera: PromptCamera
    roll_deg: float = 0.0
    """By which the picture's content is turned clockwise against the frame's."""
    margin: float = 0.15
    """That the frame has besides, in sides of the picture."""

    @property
    def widening(self) -> float:
        """Side of the frame over that of the picture, which it holds all of, around the origin."""
        return 1 + self.margin + 2 * max(abs(shift) for shift in self.camera.offset)

    @property
    def camera_to_world(self) -> Float[Tensor, "1 4 4"]:
        """Pose of the frame's camera."""
        place = self.camera.elevation_deg, self.camera.azimuth_deg, self.camera.distance
        return cameras.look_at_origin(*(torch.tensor([value]) for value in place))

    @property
    def fov_y_deg(self) -> Float[Tensor, "1"]:
        """Field of view of the frame, which is wider than the picture's."""
        half = self.camera.relative_distance * self.widening / self.camera.distance
        return torch.tensor([2 * math.degrees(math.atan(half))])

    def places(self, size: int) -> Float[Tensor, "1 {size} {size} 2"]:
        """Where in the picture the pixels of the frame lie, in half pictures from its centre, as `grid_sample` counts."""
        roll, (right, down) = math.radians(self.roll_deg), self.camera.offset
        cos, sin = math.cos(roll) * self.widening, math.sin(roll) * self.widening
        theta = torch.tensor([[[cos, -sin, 2 * right], [sin, cos, 2 * down]]])
        return affine_grid(theta, [1, 1, size, size], align_corners=False)

    def lay(self, picture: Float[Tensor, "1 4 _ _"], size: int) -> Float[Tensor, "1 4 {size} {size}"]:
        """A premultiplied picture as the frame shows it; 0 beside it."""
        return grid_sample(picture, self.places(size), align_corners=False)

    def render(self, caster: Raycaster, size: int) -> Float[Tensor, "1 4 {size} {size}"]:
        """The object in the frame, without light; premultiplied."""
        return premultiplied(caster.render(self.camera_to_world, self.fov_y_deg, size, light=None).rgba)


def add_picture_detail(
    model: TexturedMesh,
    pictures: Sequence[Float[Tensor, "4 _ _"]],
    prompt_cameras: Sequence[PromptCamera],
    embed: EmbedFunction | None = None,
) -> tuple[TexturedMesh, list[dict[str, Any]]]:
    """Lay pictures of an object on the texture of its mesh, each where it sees it.

    Args:
        model: mesh and texture in world axes.
        pictures: straight alpha, values in [0, 1], framed as the prompts that the cameras were found for, but larger.
        prompt_cameras: where each was taken from, as estimated.
        embed: judges whether other sides look as much like the picture as before; None asks nobody.

    Returns:
        The mesh with its new texture, and a record for each picture, ready for JSON: `refused`, a sentence or None, and what
        was measured, before and after.
    """
    mesh = model.mesh
    places = texels(mesh, len(model.base_colour))
    own = torch.from_numpy(model.base_colour[places.mask]).float() / 255
    total = FIELD_WEIGHT * torch.cat(
        [own, torch.ones(len(own), 1)], dim=1
    )  # colours times weight, and weight
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    records = []
    for picture, camera in zip(pictures, prompt_cameras, strict=True):
        caster = textured_caster(model)
        placement, record = place_picture(picture, caster, camera)
        if record["refused"] is None:
            colours, weights = project_picture(picture, placement, places, surface)
            new_total = total + weights[:, None] * torch.cat([colours, torch.ones(len(own), 1)], dim=1)
            painted = replace(model, base_colour=places.picture(new_total[:, :3] / new_total[:, 3:]))
            record |= judge(picture, placement, caster, textured_caster(painted), embed)
            if record["refused"] is None:
                model, total = painted, new_total
        records.append(record)
    return model, records


def told(record: Mapping[str, Any]) -> str:
    """A record of `add_picture_detail` as a sentence for people."""
    if record["refused"] is not None:
        return f"The picture's own pixels are not on the mesh: {record['refused']}"
    (psnr_before, psnr_after), (ssim_before, ssim_after) = record["psnr_db"], record["ssim"]
    return (
        f"The picture's own pixels are on the side of the mesh that it shows: from its camera PSNR {psnr_before:.1f} -> "
        f"{psnr_after:.1f} dB, SSIM {ssim_before:.3f} -> {ssim_after:.3f}"
    )


# ------------------------------------------------------------------------------------------ where the picture was taken


def place_picture(
    picture: Float[Tensor, "4 _ _"], caster: Raycaster, camera: PromptCamera
) -> tuple[Placement, dict[str, Any]]:
    """Refine a picture's camera, and refuse pictures whose camera is doubtful or wrong.

    Args:
        picture: straight alpha.
        caster: the mesh with its colours.
        camera: as estimated, say from the field.

    Returns:
        The placement, and the first half of the record of `add_picture_detail`.
    """
    record = {"refused": None, "certainty": camera.certainty}
    if camera.certainty < LEAST_CERTAINTY:
        why = f"its camera is {100 * camera.certainty:.0f}% certain, needed are {100 * LEAST_CERTAINTY:.0f}%"
        return Placement(camera), {**record, "refused": why}
    better_deg = fits_better_from(picture, caster, camera)
    if better_deg is not None:
        why = f"its camera is said to be at azimuth {camera.azimuth_deg:.0f}°, but it fits better from {better_deg:.0f}°"
        return Placement(camera), {**record, "refused": why}
    placement, iou_before = refine(picture, caster, camera)
    found = placement.camera
    record |= {
        "camera": found.to_dict(),
        "roll_deg": placement.roll_deg,
        "iou": [iou_before, found.silhouette_iou],
    }
    if found.silhouette_iou < LEAST_IOU:
        record["refused"] = (
            f"its silhouette agrees with the mesh's to {found.silhouette_iou:.2f} (IoU), needed are {LEAST_IOU}"
        )
    return placement, record


def refine(
    picture: Float[Tensor, "4 _ _"], caster: Raycaster, camera: PromptCamera
) -> tuple[Placement, float]:
    """Render and compare: turn, move and scale until silhouettes and colours agree best (Nelder and Mead 1965).

    Returns:
        The refined placement, or the given one where the IoU of the silhouettes did not rise; and that IoU before.
    """
    small = _shrunk(picture, _REFINE_PX)

    def moved(values: np.ndarray) -> Placement:
        azimuth, elevation, distance, scale, roll, right, down = values.tolist()
        away = camera.distance * math.exp(0.2 * distance)
        half_frame = camera.relative_distance * math.exp(0.1 * scale)
        turned = replace(
            camera,
            azimuth_deg=(camera.azimuth_deg + 5 * azimuth + 180) % 360 - 180,
            elevation_deg=min(max(camera.elevation_deg + 5 * elevation, -80.0), 80.0),
            distance=away,
            fov_y_deg=2 * math.degrees(math.atan(half_frame / away)),
            offset=(camera.offset[0] + 0.02 * right, camera.offset[1] + 0.02 * down),
        )
        return Placement(turned, 5 * roll)

    def agreement(placement: Placement) -> tuple[float, float]:
        iou, colour = agreements(placement.render(caster, _REFINE_PX), placement.lay(small, _REFINE_PX))
        return float(iou), float(colour)

    def loss(values: np.ndarray) -> float:
        iou, colour = agreement(moved(values))
        return -iou - 0.3 * colour + 0.002 * float(np.square(values).sum())

    start = np.zeros(7)
    simplex = np.concatenate([start[None], 0.6 * np.eye(7)])
    options = {"initial_simplex": simplex, "maxfev": 150, "xatol": 0.02, "fatol": 1e-4}
    best = moved(optimize.minimize(loss, start, method="Nelder-Mead", options=options).x)
    before, after = (agreement(placement)[0] for placement in (moved(start), best))
    chosen = best if after > before else moved(start)
    return replace(chosen, camera=replace(chosen.camera, silhouette_iou=max(before, after))), before


def fits_better_from(
    picture: Float[Tensor, "4 _ _"], caster: Raycaster, camera: PromptCamera
) -> float | None:
    """The azimuth in degrees, `OTHER_SIDE_DEG` away or more, from which the mesh looks more like a picture; None if none does.

    Compared as in `estimate_prompt_camera`, but without a prior: a face is not painted where the back is, however likely.
    """
    azimuths = camera.azimuth_deg + torch.arange(_AROUND) * 360.0 / _AROUND
    placement = Placement(camera)
    same = torch.ones(_AROUND)
    poses = cameras.look_at_origin(same * camera.elevation_deg, azimuths, same * camera.distance)
    rgba = caster.render(poses, placement.fov_y_deg.expand(_AROUND), 2 * _MATCH_PX, light=None).rgba
    views, given = (
        reframed(shown, *centre_and_radius(shown[:, 3]), _MATCH_PX)
        for shown in (premultiplied(rgba), _shrunk(picture, 2 * _MATCH_PX))
    )
    iou, colour = agreements(views, given)
    fit = SILHOUETTE * log_likelihood(iou) + COLOR * log_likelihood(colour)
    best = int(fit.argmax())
    away_deg = min(best, _AROUND - best) * 360.0 / _AROUND
    return float((azimuths[best] + 180) % 360 - 180) if away_deg >= OTHER_SIDE_DEG else None


# --------------------------------------------------------------------------------------------------------- its colours


def project_picture(
    picture: Float[Tensor, "4 height width"], placement: Placement, places: Texels, surface: trimesh.Trimesh
) -> tuple[Float[Tensor, "texel 3"], Float[Tensor, " texel"]]:
    """What a picture says of the texels' colours, and how much that counts.

    The weight is cos⁴ between normal and direction to the camera. It falls to 0 at the picture's outline and where one part
    of the object hides another, and is 0 for what is hidden. It depends on places and normals only, so it is smooth over the
    surface and knows no seams of the texture.

    Args:
        picture: straight alpha.
        placement: of the picture.
        places: the texels.
        surface: what they lie on.
    """
    pose, fov = placement.camera_to_world[0], placement.fov_y_deg
    size = picture.shape[-1]
    pixel, _ = cameras.project(places.positions, pose, fov[0], 2, 2)
    in_frame = (pixel - 1)[None, None]  # half frames from the centre
    in_picture = _read(placement.places(_EDGE_PX).movedim(-1, 1), in_frame).T[None, None]

    # colours of half transparent pixels are the background's too: those of the nearest solid ones take their place
    solid = ndimage.binary_erosion((picture[3] > 0.95).numpy(), iterations=max(1, round(size / 256)))
    pixels = (picture[:3].clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    colours = torch.from_numpy(fill_gaps(pixels, solid if solid.any() else picture[3].numpy() > 0.5))
    colours = _read(colours.movedim(-1, 0)[None] / 255, in_picture).T

    depth = Raycaster(surface).depth(pose[None], fov, _EDGE_PX)[0].numpy()
    depth = np.where(np.isfinite(depth), depth, 2 * placement.camera.distance)
    step = ndimage.maximum_filter(depth, 3) - ndimage.minimum_filter(depth, 3)
    side = (
        2 * placement.camera.distance * math.tan(math.radians(float(fov)) / 2)
    )  # of the frame at the origin
    weight = _read(_ramp(step < _DEPTH_STEP * side), in_frame)[0]
    weight = weight * _read(_ramp(solid), in_picture)[0]
    towards = normalize(pose[:3, 3] - places.positions, dim=-1)
    cosine = (places.normals * towards).sum(-1).clamp_min(0)
    return colours, weight * cosine**4 * is_visible(places, surface, pose[:3, 3])


def is_visible(places: Texels, surface: trimesh.Trimesh, eye: Float[Tensor, "3"]) -> Bool[Tensor, " texel"]:
    """Which texels nothing hides from a point outside."""
    scene, _mesh = embree_scene(np.asarray(surface.vertices), np.asarray(surface.faces))
    distance = (places.positions - eye).norm(dim=-1)
    directions = ((places.positions - eye) / distance[:, None]).numpy()
    origins = np.tile(eye.numpy(), (len(directions), 1))
    hits = scene.run(origins, directions, output=True)
    return torch.from_numpy(hits["tfar"]) > distance - 2e-3 * float(surface.scale)


def _ramp(inside: Bool[np.ndarray, "size size"]) -> Float[Tensor, "1 1 size size"]:
    """0 outside and at the edge, 1 from `_EDGE` of the picture's side on; what lies beside the picture is outside."""
    reach = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] / (_EDGE * len(inside))
    return torch.from_numpy(reach.clip(0, 1)).float()[None, None]


def _read(
    maps: Float[Tensor, "1 channel height width"], places: Float[Tensor, "1 1 texel 2"]
) -> Float[Tensor, "channel texel"]:
    return grid_sample(maps, places, align_corners=False, padding_mode="border")[0, :, 0]


# ------------------------------------------------------------------------------------------------- is it an improvement?


def judge(
    picture: Float[Tensor, "4 _ _"],
    placement: Placement,
    before: Raycaster,
    after: Raycaster,
    embed: EmbedFunction | None = None,
) -> dict[str, Any]:
    """Whether a mesh looks more like a picture from its camera, and from no other side less than before.

    Returns:
        The second half of the record of `add_picture_detail`.
    """
    target = white_behind(placement.lay(_shrunk(picture, _JUDGE_PX), _JUDGE_PX))
    shown = [white_behind(placement.render(caster, _JUDGE_PX)) for caster in (before, after)]
    record: dict[str, Any] = {
        "refused": None,
        "psnr_db": [float(psnr(picture, target)) for picture in shown],
        "ssim": [float(ssim(picture, target)) for picture in shown],
    }
    worse = [
        f"{name} {was:.4g} to {now:.4g}"
        for name in ("psnr_db", "ssim")
        for was, now in [record[name]]
        if now <= was
    ]
    if worse:
        return {**record, "refused": f"the mesh would look less like it from its camera: {', '.join(worse)}"}
    if embed is not None:
        azimuths = placement.camera.azimuth_deg + torch.arange(0, 360, 45.0)
        same = torch.ones_like(azimuths)
        poses = cameras.look_at_origin(
            same * placement.camera.elevation_deg, azimuths, same * placement.camera.distance
        )
        fov = placement.fov_y_deg.expand(len(azimuths))
        around = [
            over_white(caster.render(poses, fov, _JUDGE_PX, light=None).rgba) for caster in (before, after)
        ]
        wanted, *embedded = (embed(pictures).float().cpu() for pictures in (target, *around))
        change = (embedded[1] - embedded[0]) @ wanted[0]
        record["similarity_change"] = change.tolist()
        if change.min() < -EMBEDDING_NOISE:
            side = float(azimuths[change.argmin()] + 180) % 360 - 180
            why = f"from azimuth {side:.0f}° the mesh would look less like it: CLIP similarity {float(change.min()):+.3f}"
            record["refused"] = why
    return record


def textured_caster(model: TexturedMesh) -> Raycaster:
    """A textured mesh prepared for ray casting, in world axes."""
    mesh = model.mesh
    visual = Surface(texture=Texture(PIL.Image.fromarray(model.base_colour), mesh.uv))
    return Raycaster(trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False))


def _shrunk(picture: Float[Tensor, "4 height width"], size: int) -> Float[Tensor, "1 4 _ _"]:
    """A picture of straight alpha, premultiplied, at most `size` pixels square."""
    whole = premultiplied(picture[None])
    return whole if picture.shape[-1] <= size else interpolate(whole, (size, size), mode="area")
