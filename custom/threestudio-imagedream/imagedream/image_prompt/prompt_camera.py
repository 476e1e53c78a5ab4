"""Where a picture was taken from: it is matched against renders of the object over azimuth, elevation and distance.

A prompt is an object cut out and centred, so where it was and how large it was in its picture is lost. Prompt and renders
are therefore compared after both have been moved and scaled to the same centre of mass and the same mean radius; that the
camera stands upright is taken for granted. A cut-out does not tell the field of view it was taken with, but perspective tells
the distance a little: it is searched for around a likely one, and how large the prompt shows the object gives the field of
view that goes with it. Compared are the silhouettes, where the object is lighter or darker than its
mean colour, and, where an encoder is given, CLIP's patch features. The best azimuth and elevation of a coarse grid are
refined, with the distance.

The likelihood of a direction is a product of powers of its disagreements: how much better one direction has to fit than
another depends on how well any fits, so the same powers serve a true mesh and a rough guess. They were fitted, like the
prior, to 60 toys of the training split (true meshes and four views by the small model, prompts from up to ±90°).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, normalize

from imagedream.cameras import check_angles, framing_distance, look_at_origin, view_name
from imagedream.mesh.field import ViewFunction
from imagedream.metrics import LIKELY_FOV_Y_DEG
from imagedream.pictures import premultiplied

FeatureFunction = Callable[[Tensor], Tensor]
"""Pictures (picture, 3, height, width) in [0, 1] -> features (picture, feature)."""

NEAR_DEG = 15.0
"""An estimate is as certain as its azimuth is likely to be within this many degrees of the truth."""

AZIMUTH_STEP_DEG = 15.0
ELEVATIONS_DEG = (-10.0, 0.0, 10.0, 20.0, 35.0)
"""The coarse grid of directions."""
DISTANCES = (0.6, 0.77, 1.0, 1.3, 1.7)
"""Distances that are tried, over the likely one."""
SILHOUETTE, COLOR, FEATURE = 6.5, 3.0, 3.5
"""Powers that a render's disagreements have in its likelihood: 1 − silhouette IoU, difference between the patterns of colour,
1 − cosine of the features."""
FRONT = 2.0
"""Concentration of the prior on azimuth 0 (von Mises: 2 is about ±40°); 0 for none."""
ELEVATION_DEG = (10.0, 15.0)
"""Mean and standard deviation of the normal prior on the elevation."""
LOG_DISTANCE_STD = 0.3
"""Normal prior on the logarithm of the distance over the likely one."""

_COARSE_PX, _FINE_PX = 32, 48
_LAST_STEP_DEG = 0.5
_WINDOW = 2.2  # half side of what is compared, in mean radii of the object; a disk's rim is at 1.41, a stick's end at 1.73


@dataclass(frozen=True)
class PromptCamera:
    """Where a prompt was taken from, as far as can be told."""

    azimuth_deg: float
    """In [-180, 180), counted from the object's front."""
    elevation_deg: float
    distance: float
    """From the origin, in the world units of what was rendered; known roughly at best."""
    fov_y_deg: float
    """Vertical field of view of the prompt's frame."""
    offset: tuple[float, float]
    """From the frame's centre to where the origin appears: right and down, in sides of the frame."""
    certainty: float
    """Probability, in [0, 1], that the azimuth is at most `NEAR_DEG` wrong; see `estimate_prompt_camera`."""
    silhouette_iou: float
    """Of the prompt and the render from here, framed alike."""

    @property
    def relative_distance(self) -> float:
        """Half the height of the prompt's frame at the origin, in world units."""
        return self.distance * math.tan(math.radians(self.fov_y_deg) / 2)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "PromptCamera":
        """The inverse of `to_dict`."""
        return cls(**{**record, "offset": tuple(record["offset"])})

    def __str__(self) -> str:
        side = view_name(self.azimuth_deg)
        return (
            f"azimuth {self.azimuth_deg:.0f}° ({side}), elevation {self.elevation_deg:.0f}°, "
            f"{100 * self.certainty:.0f}% certain within {NEAR_DEG:.0f}°"
        )


@torch.no_grad()
def estimate_prompt_camera(
    prompt: Float[Tensor, "4 height width"],
    render: ViewFunction,
    relative_distance: float = 1.0,
    fov_y_deg: float = LIKELY_FOV_Y_DEG,
    features: FeatureFunction | None = None,
) -> PromptCamera:
    """The camera from which an object looks most like a prompt. Nothing is random.

    The certainty is the posterior probability, over the azimuths of the coarse grid, of those within `NEAR_DEG` of the
    answer. It is low where no direction fits much better than others: where the object looks alike from several sides,
    or unlike the prompt from all of them.

    Args:
        prompt: straight alpha, values in [0, 1].
        render: the object; called with cameras that look at the origin, see `imagedream.mesh.field.ViewFunction`.
        relative_distance: half the height of a frame at the origin in world units, such that it shows all of the object.
        fov_y_deg: vertical field of view of that frame; the two give the likely distance.
        features: such as `clip_features(encoder)`; None compares silhouettes and colours only.

    Raises:
        ValueError: the prompt is transparent, or the object is not to be seen from any side.
    """
    check_angles(ELEVATIONS_DEG, fov_y_deg)
    distance = float(framing_distance(relative_distance, torch.tensor(float(fov_y_deg))))
    matcher = _Matcher(prompt, render, distance, relative_distance)
    azimuths = torch.arange(0, 360, AZIMUTH_STEP_DEG)
    grid = torch.cartesian_prod(torch.tensor(ELEVATIONS_DEG), azimuths)
    logits, pictures = matcher(grid[:, 0], grid[:, 1], _COARSE_PX)
    logits = logits.reshape(-1, len(azimuths))
    best = logits.argmax(0)  # elevation of each azimuth
    marginal = logits.logsumexp(0)
    if features is not None:
        chosen = pictures[best * len(azimuths) + torch.arange(len(azimuths))]
        looks = features(white_behind(torch.cat([matcher.prompt(_COARSE_PX), chosen])))
        looks = normalize(looks.float().cpu(), dim=-1)
        marginal = marginal + FEATURE * log_likelihood(looks[1:] @ looks[0])
    probabilities = marginal.softmax(0)
    start = int(marginal.argmax())
    place = float(ELEVATIONS_DEG[best[start]]), float(azimuths[start])
    elevation, azimuth = matcher.refine(*place, AZIMUTH_STEP_DEG / 2)
    matcher.find_distance(elevation, azimuth)
    elevation, azimuth = matcher.refine(elevation, azimuth, AZIMUTH_STEP_DEG / 8)
    iou, offset = matcher.framing(elevation, azimuth)
    return PromptCamera(
        azimuth_deg=(azimuth + 180) % 360 - 180,
        elevation_deg=elevation,
        distance=matcher.distance,
        fov_y_deg=matcher.fov_y_deg,
        offset=offset,
        certainty=mass_near(probabilities, azimuth),
        silhouette_iou=iou,
    )


def mass_near(probabilities: Float[Tensor, " azimuth"], azimuth_deg: float) -> float:
    """The share of a distribution over azimuths 0, 360 / n, ... that is within `NEAR_DEG` of one of them.

    Each probability is taken to be spread evenly over its own 360 / n degrees.

    >>> mass_near(torch.tensor([0.5, 0.5, 0.0, 0.0]), azimuth_deg=45.0)
    0.1666666716337204
    """
    step = 360 / len(probabilities)
    away = (torch.arange(len(probabilities)) * step - azimuth_deg + 180) % 360 - 180
    low, high = (away - step / 2).clamp_min(-NEAR_DEG), (away + step / 2).clamp_max(NEAR_DEG)
    return float(((high - low).clamp_min(0) / step * probabilities).sum())


def clip_features(encoder: Any, device: torch.device | str = "cpu") -> FeatureFunction:
    """Patch features by an `ImageTextEncoder` that works on a device: unlike its embedding, they tell where things are."""

    def features(pictures: Tensor) -> Tensor:
        return encoder.encode_image(pictures.to(device)).hidden.flatten(1)

    return features


class _Matcher:
    """Renders of an object against a prompt."""

    def __init__(
        self, prompt: Tensor, render: ViewFunction, distance: float, relative_distance: float
    ) -> None:
        picture, size = premultiplied(prompt[None].float().cpu()), 2 * _FINE_PX
        if prompt.shape[-1] > size:
            picture = interpolate(picture, (size, size), mode="area")
        self.picture = _firm(picture)
        self.center, self.radius = centre_and_radius(self.picture[:, 3])
        if not self.radius.isfinite():
            raise ValueError("the prompt is transparent everywhere, its camera cannot be found")
        self.render = render
        self.likely_distance = self.distance = distance
        self.relative_distance = relative_distance
        self._fill_frames()

    @property
    def fov_y_deg(self) -> float:
        """Of frames as high as `relative_distance` says, from `distance`."""
        return 2 * math.degrees(math.atan(self.relative_distance / self.distance))

    def prompt(self, size: int) -> Float[Tensor, "1 4 {size} {size}"]:
        """The prompt framed as renders are."""
        return reframed(self.picture, self.center, self.radius, size)

    def views(
        self, elevations_deg: Tensor, azimuths_deg: Tensor, size: int
    ) -> Float[Tensor, "view 4 size size"]:
        """Renders, premultiplied."""
        poses = look_at_origin(elevations_deg, azimuths_deg, torch.full_like(azimuths_deg, self.distance))
        fov = torch.full_like(azimuths_deg, self.fov_y_deg)
        return _firm(self.render(poses, fov, size).float().cpu())

    def _fill_frames(self) -> None:
        """Choose frames that show the object as large as the prompt does, on average over its sides."""
        azimuths = torch.arange(0, 360, 45.0)
        for _ in range(2):
            views = self.views(torch.full_like(azimuths, 10.0), azimuths, _COARSE_PX)
            _, radius = centre_and_radius(views[:, 3])
            seen = radius[radius.isfinite()]
            if not len(seen):
                raise ValueError(
                    "nothing of the object is to be seen, so no camera shows what the prompt shows"
                )
            self.relative_distance *= float(seen.mean() / self.radius)

    def __call__(
        self, elevations_deg: Tensor, azimuths_deg: Tensor, size: int
    ) -> tuple[Float[Tensor, " view"], Float[Tensor, "view 4 size size"]]:
        """Log posterior of directions (silhouette, colour and prior), and the renders framed like the prompt."""
        views = self.views(elevations_deg, azimuths_deg, size)
        framed = reframed(views, *centre_and_radius(views[:, 3]), size)
        iou, colour = agreements(framed, self.prompt(size))
        mean, std = ELEVATION_DEG
        prior = FRONT * torch.cos(torch.deg2rad(azimuths_deg)) - ((elevations_deg - mean) / std) ** 2 / 2
        return SILHOUETTE * log_likelihood(iou) + COLOR * log_likelihood(colour) + prior, framed

    def refine(self, elevation_deg: float, azimuth_deg: float, step_deg: float) -> tuple[float, float]:
        """Try the eight neighbours, move to the best, halve the step."""
        around = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]))
        around = around[around.abs().sum(1).argsort(stable=True)]  # the place itself first: it wins ties
        while step_deg > _LAST_STEP_DEG:
            places = torch.tensor([elevation_deg, azimuth_deg]) + around * step_deg
            places[:, 0] = places[:, 0].clamp(-80, 80)
            posterior, _ = self(places[:, 0], places[:, 1], _FINE_PX)
            elevation_deg, azimuth_deg = places[posterior.argmax()].tolist()
            step_deg /= 2
        return elevation_deg, azimuth_deg

    def find_distance(self, elevation_deg: float, azimuth_deg: float) -> None:
        """Take the best of the distances."""
        posteriors = []
        for factor in DISTANCES:
            self.distance = factor * self.likely_distance
            posterior, _ = self(torch.tensor([elevation_deg]), torch.tensor([azimuth_deg]), _FINE_PX)
            posteriors.append(float(posterior) - (math.log(factor) / LOG_DISTANCE_STD) ** 2 / 2)
        self.distance = self.likely_distance * DISTANCES[posteriors.index(max(posteriors))]

    def framing(self, elevation_deg: float, azimuth_deg: float) -> tuple[float, tuple[float, float]]:
        """Choose the frame that shows the object as large as the prompt; silhouette IoU and offset from there."""
        for _ in range(2):
            view = self.views(torch.tensor([elevation_deg]), torch.tensor([azimuth_deg]), 2 * _FINE_PX)
            center, radius = centre_and_radius(view[:, 3])
            iou, _ = agreements(reframed(view, center, radius, _FINE_PX), self.prompt(_FINE_PX))
            self.relative_distance *= float(radius / self.radius)
        right, down = (self.center - center * self.radius / radius)[0].tolist()
        return float(iou), (right / 2, down / 2)


def centre_and_radius(
    opacity: Float[Tensor, "view height width"],
) -> tuple[Float[Tensor, "view 2"], Float[Tensor, " view"]]:
    """Centre of mass (right, down) and root mean squared distance from it, in half frames from the frame's centre.

    Not a number for pictures of nothing.
    """
    height, width = opacity.shape[-2:]
    x = (torch.arange(width) + 0.5) * 2 / width - 1
    y = (torch.arange(height) + 0.5) * 2 / height - 1
    total = opacity.sum((1, 2))
    center = torch.stack([(opacity * x).sum((1, 2)), (opacity * y[:, None]).sum((1, 2))], -1) / total[:, None]
    squares = (x - center[:, :1])[:, None] ** 2 + ((y - center[:, 1:]) ** 2)[:, :, None]
    radius = ((opacity * squares).sum((1, 2)) / total).sqrt()
    return center, radius


def _firm(pictures: Float[Tensor, "view 4 height width"]) -> Float[Tensor, "view 4 height width"]:
    """Premultiplied pictures without haze: opacities below a quarter become 0, those above three quarters 1. Colours stay."""
    opacity = pictures[:, 3:]
    firm = ((opacity - 0.25) * 2).clamp(0, 1)
    return torch.cat([pictures[:, :3] / opacity.clamp_min(1e-3) * firm, firm], dim=1)


def reframed(
    pictures: Float[Tensor, "view channel height width"],
    center: Float[Tensor, "view 2"],
    radius: Float[Tensor, " view"],
    size: int,
) -> Float[Tensor, "view channel {size} {size}"]:
    """Pictures cut to a square around a centre whose half side is a fixed multiple of the radius; 0 outside of them."""
    center, radius = center.nan_to_num(), radius.nan_to_num(nan=1.0).clamp_min(1e-3)
    theta = torch.zeros(len(pictures), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = _WINDOW * radius
    theta[:, :, 2] = center
    places = affine_grid(theta, [len(pictures), 1, size, size], align_corners=False)
    return grid_sample(pictures, places, align_corners=False)


def agreements(
    views: Float[Tensor, "view 4 size size"], prompt: Float[Tensor, "1 4 size size"]
) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
    """How alike premultiplied pictures are, at most 1: the soft IoU of their opacities; and their patterns of colour.

    The second is 1 − mean absolute difference where both are opaque, of colours without fine detail and less their mean,
    so that it matters where an object is lighter, darker or of another colour, but not what the light was.
    """
    both = torch.minimum(views[:, 3], prompt[:, 3])
    either = torch.maximum(views[:, 3], prompt[:, 3])
    iou = both.sum((1, 2)) / either.sum((1, 2)).clamp_min(1e-6)
    reach = views.shape[-1] // 16
    pair = [blurred(picture, reach) for picture in (views, prompt)]
    weight = torch.minimum(pair[0][:, 3:], pair[1][:, 3:])
    weight = weight / weight.sum((2, 3), keepdim=True).clamp_min(1e-6)
    colours = [picture[:, :3] / picture[:, 3:].clamp_min(1e-2) for picture in pair]
    patterns = [colour - (colour * weight).sum((2, 3), keepdim=True) for colour in colours]
    difference = ((patterns[0] - patterns[1]).abs().mean(1, keepdim=True) * weight).sum((1, 2, 3))
    return iou, 1 - difference


def blurred(pictures: Float[Tensor, "view 4 size size"], reach: int) -> Float[Tensor, "view 4 size size"]:
    """Means over squares of 2 · reach + 1 pixels, twice."""
    for _ in range(2):
        pictures = avg_pool2d(pictures, 2 * reach + 1, 1, reach)
    return pictures


def log_likelihood(agreement: Float[Tensor, " view"]) -> Float[Tensor, " view"]:
    """−log of the disagreement, which is never taken to be below a hundredth."""
    return -torch.log((1.01 - agreement).clamp_min(0.01))


def white_behind(pictures: Float[Tensor, "view 4 height width"]) -> Float[Tensor, "view 3 height width"]:
    """Premultiplied pictures in front of white."""
    return (pictures[:, :3] + 1 - pictures[:, 3:]).clamp(0, 1)
