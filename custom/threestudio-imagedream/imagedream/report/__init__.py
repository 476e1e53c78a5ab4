"""A run as one HTML file that works offline: prompt, views, snapshots, turntable, mesh, timings, settings.

The pages are the Jinja templates in `page/`, which escape all that they are given. The mesh is shown by Google's
model-viewer, which lies there with its licence and is written into the page.
"""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import jinja2
import PIL.Image
import trimesh
from markupsafe import Markup
from torch import Tensor

import imagedream
from imagedream.cameras import VIEW_NAMES
from imagedream.image_prompt.picture_projection import told
from imagedream.image_prompt.prompt import ImagePrompt
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import to_pil
from imagedream.runs.files import atomic_path
from imagedream.runs.settings import flatten

Picture = str | os.PathLike[str] | PIL.Image.Image | Tensor | ImagePrompt
"""A picture file, a Pillow picture, pixels `(3 or 4, height, width)` in [0, 1], or a prepared prompt."""

_PAGE = Path(__file__).parent / "page"


def write_page(template: str, path: str | os.PathLike[str], **values: Any) -> Path:
    """Fill a template of `page/` and write it; all values are shown as text."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"duration": _duration, "size": _size}
    page = templates.get_template(template).render(version=imagedream.__version__, **values)
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    prompts: Sequence[Picture] = (),
    views: Sequence[Picture] | Tensor | None = None,
    view_names: Sequence[str] = VIEW_NAMES,
    rounds: Sequence[tuple[str, Picture]] = (),
    snapshots: Sequence[tuple[str, Picture]] = (),
    turntable: str | os.PathLike[str] | None = None,
    mesh: str | os.PathLike[str] | None = None,
    mesh_record: Mapping[str, Any] | None = None,
    mesh_levels: Picture | None = None,
    prompt_cameras: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    timings: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write the report; a part that is missing or unreadable is said to be so in the page.

    Args:
        path: HTML file to write.
        title: heading, for example the caption.
        prompts: what the model was shown.
        views: the diffusion model's views of it.
        view_names: labels of the views.
        rounds: labels and pictures of the views that the model was asked for along the way, if it was.
        snapshots: labels and pictures over time, oldest first.
        turntable: an MP4 or WebM file.
        mesh: the exported GLB file.
        mesh_record: of `imagedream.mesh.export`; its warnings join the others.
        mesh_levels: the isosurface levels that were tried, as a picture.
        prompt_cameras: where each prompt was taken from, as `PromptCamera.to_dict`, by what it was matched with.
        timings: seconds of each phase, in order.
        settings: what the run was told; nested mappings become dotted names.
        warnings: what may have spoilt the result.

    Returns:
        The path written.
    """
    mesh_record = mesh_record or {}
    cameras = [
        f"Seen from {PromptCamera.from_dict(camera)}, by the {by}"
        for by, of_pictures in (prompt_cameras or {}).items()
        for camera in of_pictures
    ]
    cameras += map(told, mesh_record.get("picture_detail", ()))
    model = _part(mesh, _model, "No mesh was exported; see the log.")
    return write_page(
        "report.html",
        path,
        title=title,
        warnings=[*warnings, *mesh_record.get("warnings", ())],
        prompts=_part(prompts, _prompts, "No picture: the model was given the caption alone."),
        cameras=cameras,
        model=model,
        files=mesh_record.get("files", ()),
        views=_part(views, lambda views: _views(views, view_names), "No views were made."),
        turntable=_part(turntable, _film, "No turntable was rendered."),
        rounds=None if not rounds else _part(rounds, _snapshots, ""),
        snapshots=_part(snapshots, _snapshots, "No snapshots were taken."),
        levels=None if mesh_levels is None else _part(mesh_levels, _image, ""),
        timings=_part(timings, dict, "No times were taken."),
        settings=_part(settings, flatten, "No settings were recorded."),
        viewer=_viewer() if "content" in model else "",
    )


def _part(value: Any, prepare: Callable[[Any], Any], missing: str) -> dict[str, Any]:
    """What the template shows of one part: its `content`, or why it is `missing`."""
    if value is None or (isinstance(value, Sized) and not len(value)):
        return {"missing": missing}
    try:
        return {"content": prepare(value)}
    except Exception as error:  # readers stumble over damaged files in every way
        return {"missing": f"This part cannot be shown: {error}"}


def _prompts(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    return [_image(picture, "the prompt") for picture in pictures]


def _views(views: Sequence[Picture] | Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    labels = [*names, *(f"view {index + 1}" for index in range(len(names), len(views)))]
    return [_image(view, label) for view, label in zip(views, labels, strict=False)]


def _snapshots(snapshots: Sequence[tuple[str, Picture]]) -> list[dict[str, Any]]:
    return [_image(picture, label, "WEBP") for label, picture in snapshots]


def _film(file: str | os.PathLike[str]) -> str:
    path = Path(file)
    return _data_uri(path.read_bytes(), f"video/{path.suffix[1:].lower()}")


def _model(file: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(file)
    triangles = sum(len(part.faces) for part in trimesh.load_scene(path).geometry.values())
    content = path.read_bytes()
    uri = _data_uri(content, "model/gltf-binary")
    return {"name": path.name, "uri": uri, "triangles": triangles, "bytes": len(content)}


def _viewer() -> Markup:
    code = (_PAGE / "model-viewer.min.js").read_text(encoding="utf-8")
    return Markup(code.split("//# sourceMappingURL")[0])


def _image(picture: Picture, label: str = "", format: str = "PNG") -> dict[str, Any]:
    if isinstance(picture, str | os.PathLike):
        with PIL.Image.open(picture) as image:
            image.load()
    elif isinstance(picture, ImagePrompt):
        image = picture.to_pil()
    else:
        image = to_pil(picture) if isinstance(picture, Tensor) else picture
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 90} if format == "WEBP" else {}))
    uri = _data_uri(buffer.getvalue(), f"image/{format.lower()}")
    return {"uri": uri, "label": label, "width": image.width, "height": image.height}


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _size(length: int) -> str:
    return f"{length / 2**20:.1f} MiB" if length >= 2**20 else f"{length / 2**10:.0f} KiB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
