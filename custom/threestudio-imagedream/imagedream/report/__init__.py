"""A run as one HTML file that works offline: prompt, views, snapshots, turntable, mesh, timings, settings.

The mesh is shown by Google's model-viewer, which lies in `report_page/` with its licence and is written into the page.
"""

import base64
import html
import io
import json
import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from torch import Tensor

import imagedream
from imagedream.cameras import VIEW_NAMES
from imagedream.image_prompt.prompt import ImagePrompt
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import to_pil
from imagedream.runs.files import atomic_path
from imagedream.runs.settings import flatten

Picture = str | os.PathLike[str] | PIL.Image.Image | Tensor | ImagePrompt
"""A picture file, a Pillow picture, pixels `(3 or 4, height, width)` in [0, 1], or a prepared prompt."""

_PAGE = Path(__file__).parent / "page"


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    prompt_image: Picture | Sequence[Picture] | None = None,
    views: Picture | Sequence[Picture] | None = None,
    view_names: Sequence[str] = VIEW_NAMES,
    snapshots: Sequence[Picture | tuple[str, Picture]] = (),
    turntable: Picture | Sequence[Picture] | None = None,
    mesh: str | os.PathLike[str] | None = None,
    mesh_record: Mapping[str, Any] | None = None,
    mesh_levels: Picture | None = None,
    prompt_cameras: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    timings: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write the report; a part that is missing or unreadable is said to be so in the page.

    Args:
        path: HTML file to write.
        title: heading, for example the caption.
        prompt_image: what the model was shown, one picture or several.
        views: the diffusion model's views of it, one picture each; or one picture of all of them with their labels.
        view_names: labels of the views.
        snapshots: pictures over time, oldest first, with labels or labelled by their files' names.
        turntable: an MP4 (or WebM) file, or the frames in order.
        mesh: the exported GLB file.
        mesh_record: of `imagedream.mesh.export`; its warnings join the others.
        mesh_levels: the isosurface levels that were tried, as a picture.
        prompt_cameras: where each prompt was taken from, as `PromptCamera.to_dict`, by what it was matched with.
        timings: seconds of each phase, in order.
        settings: what the run was told; nested mappings become dotted names.
        warnings: what may have spoilt the result.
        notes: anything else worth a sentence.

    Returns:
        The path written.
    """
    is_strip = views is not None and (
        isinstance(views, str | os.PathLike | PIL.Image.Image | ImagePrompt) or _is_image(views)
    )
    mesh_record = mesh_record or {}
    parts = [
        _bullets("Warnings", [*warnings, *mesh_record.get("warnings", ())], "alert"),
        '<div class="row hero">',
        _section("Prompt", lambda: _prompt(prompt_image) + _seen_from(prompt_cameras)),
        _section("3D model", lambda: _mesh(mesh) + _mesh_facts(mesh_record)),
        "</div>",
        _section(
            "What the diffusion model makes of it",
            lambda: _image(views) if is_strip else _views(views, view_names),
        ),
        '<div class="row">',
        _section("Turntable", lambda: _turntable(turntable)),
        _section("Over time", lambda: _snapshots(snapshots)),
        "</div>",
        "" if mesh_levels is None else _section("Surface", lambda: _levels(mesh_levels)),
        '<div class="row">',
        _section("Time", lambda: _timings(timings)),
        _section("Settings", lambda: _settings(settings)),
        "</div>",
        _bullets("Notes", notes, ""),
    ]
    body = "\n".join(parts)
    script = ""
    if "<model-viewer" in body:
        code = (_PAGE / "model-viewer.min.js").read_text(encoding="utf-8").split("//# sourceMappingURL")[0]
        script = f'<script type="module">{code}</script>'
    template = string.Template((_PAGE / "page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title), body=body, viewer_script=script, version=imagedream.__version__
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


class _Missing(Exception):
    """This part of the run is not there; the message says so."""


def _section(heading: str, content: Any) -> str:
    try:
        inner = content()
    except _Missing as missing:
        inner = f'<p class="missing">{html.escape(str(missing))}</p>'
    except (OSError, ValueError) as error:
        inner = f'<p class="missing">This part cannot be shown: {html.escape(str(error))}</p>'
    return f"<section><h2>{html.escape(heading)}</h2>{inner}</section>"


def _bullets(heading: str, sentences: Sequence[str], style: str) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{html.escape(str(sentence))}</li>" for sentence in sentences)
    return f'<section class="{style}"><h2>{heading}</h2><ul>{items}</ul></section>'


def _prompt(pictures: Picture | Sequence[Picture] | None) -> str:
    if pictures is None:
        raise _Missing("No picture: the model was given the caption alone.")
    shown = pictures if isinstance(pictures, list | tuple) else [pictures]
    return "".join(f'<div class="checks">{_image(picture, "the prompt")}</div>' for picture in shown)


def _seen_from(cameras: Mapping[str, Sequence[Mapping[str, Any]]] | None) -> str:
    lines = [
        f"Seen from {PromptCamera.from_dict(camera)}, by the {by}"
        for by, of_pictures in (cameras or {}).items()
        for camera in of_pictures
    ]
    return "".join(f'<p class="meta">{html.escape(line)}</p>' for line in lines)


def _views(views: Sequence[Picture] | Tensor | None, names: Sequence[str]) -> str:
    if views is None or not len(views):
        raise _Missing("No views were made.")
    labels = [*names, *(f"view {index + 1}" for index in range(len(names), len(views)))]
    figures = (
        f'<figure class="view">{_image(view, label)}<figcaption>{html.escape(label)}</figcaption></figure>'
        for view, label in zip(views, labels, strict=False)
    )
    return f'<div class="views">{"".join(figures)}</div>'


def _snapshots(snapshots: Sequence[Picture | tuple[str, Picture]]) -> str:
    if not len(snapshots):
        raise _Missing("No snapshots were taken.")
    labelled = []
    for index, snapshot in enumerate(snapshots):
        if isinstance(snapshot, tuple):
            labelled.append(snapshot)
        else:
            named = isinstance(snapshot, str | os.PathLike)
            labelled.append((Path(snapshot).stem if named else f"snapshot {index + 1}", snapshot))
    images = "".join(_image(picture, label, "WEBP") for label, picture in labelled)
    last = len(labelled) - 1
    slider = (
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="snapshot">'
        if last
        else ('<input type="range" min="0" max="0" value="0" hidden>')
    )
    return f'<figure class="snapshots">{images}{slider}<figcaption></figcaption></figure>'


def _turntable(turntable: Picture | Sequence[Picture] | None) -> str:
    if turntable is None or (isinstance(turntable, Sequence | Tensor) and not len(turntable)):
        raise _Missing("No turntable was rendered.")
    if isinstance(turntable, str | os.PathLike):
        file = Path(turntable)
        if file.suffix.lower() in (".mp4", ".webm"):
            kind = f"video/{file.suffix[1:].lower()}"
            return f'<video src="{_data_uri(file.read_bytes(), kind)}" controls loop muted autoplay playsinline></video>'
        return _image(file, "turntable")
    frames = [_open(frame).convert("RGB") for frame in turntable]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=max(40, 4000 // len(frames)), loop=0
    )
    return f'<img src="{_data_uri(buffer.getvalue(), "image/webp")}" alt="turntable" class="turntable">'


def _mesh(mesh: str | os.PathLike[str] | None) -> str:
    if mesh is None:
        raise _Missing("No mesh was exported; see the notes and the log.")
    file = Path(mesh)
    if not file.is_file():
        raise _Missing(f"No mesh: {file} does not exist.")
    content = file.read_bytes()
    triangles = _count_triangles(content)
    source = _data_uri(content, "model/gltf-binary")
    name = html.escape(file.name)
    return (
        f'<model-viewer src="{source}" alt="{name}" camera-controls touch-action="pan-y" shadow-intensity="0.6" '
        'interaction-prompt="none" camera-orbit="25deg 80deg auto" min-camera-orbit="auto 0deg auto"></model-viewer>'
        f'<div class="meta">{triangles:,} triangles, {_size(len(content))}. Drag to turn, scroll to zoom. '
        f'<a download="{name}">Save {name}</a></div>'
    )


def _mesh_facts(record: Mapping[str, Any]) -> str:
    """Each exported file, loaded again and compared with the field, as a table."""
    rows = []
    for file in record.get("files", ()):
        facts = [
            f"{file['faces']:,} faces",
            "watertight" if file["solid"]["watertight"] else "not watertight",
        ]
        facts += [f"silhouette IoU {file['silhouette_iou']:.3f}"]
        if file["psnr_db"] is not None:
            facts += [f"PSNR {file['psnr_db']:.1f} dB"]
        rows.append(f"<tr><td>{html.escape(file['file'])}</td><td>{html.escape(', '.join(facts))}</td></tr>")
    if not rows:
        return ""
    meaning = "Loaded again and compared with the field it was made from, over 16 views:"
    return f'<div class="meta">{meaning}<table>{"".join(rows)}</table></div>'


def _levels(picture: Picture) -> str:
    summary = "What other values of isosurface_threshold would have given"
    return f"<details><summary>{summary}</summary>{_image(picture, summary)}</details>"


def _count_triangles(glb: bytes) -> int:
    """Triangles of a GLB file, read off its JSON chunk (which also proves that it is one)."""
    if glb[:4] != b"glTF" or len(glb) < 20:
        raise ValueError("the mesh is not a GLB file")
    scene = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    counts = (
        scene["accessors"][primitive.get("indices", primitive["attributes"]["POSITION"])]["count"]
        for part in scene.get("meshes", [])
        for primitive in part["primitives"]
    )
    return sum(counts) // 3


def _timings(timings: Mapping[str, float] | None) -> str:
    if not timings:
        raise _Missing("No times were taken.")
    total = sum(timings.values())
    rows = [
        f"<tr><td>{html.escape(str(name))}"
        f'<div class="bar" style="width:{100 * seconds / total if total else 0:.1f}%"></div></td>'
        f"<td>{_duration(seconds)}</td></tr>"
        for name, seconds in timings.items()
    ]
    rows.append(f'<tr class="total"><td>together</td><td>{_duration(total)}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _settings(settings: Mapping[str, Any] | None) -> str:
    if not settings:
        raise _Missing("No settings were recorded.")
    flat = flatten(settings)
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in flat.items()
    )
    folded = "" if len(flat) > 16 else " open"
    return f"<details{folded}><summary>{len(flat)} settings</summary><table>{rows}</table></details>"


def _size(length: int) -> str:
    return f"{length / 2**20:.1f} MiB" if length >= 2**20 else f"{length / 2**10:.0f} KiB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _is_image(picture: object) -> bool:
    return isinstance(picture, Tensor) and picture.ndim == 3


def _open(picture: Picture) -> PIL.Image.Image:
    if isinstance(picture, PIL.Image.Image):
        return picture
    if isinstance(picture, ImagePrompt):
        return picture.to_pil()
    if isinstance(picture, Tensor):
        return to_pil(picture)
    with PIL.Image.open(picture) as image:
        image.load()
        return image


def _image(picture: Picture, label: str = "", format: str = "PNG") -> str:
    image = _open(picture)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 90} if format == "WEBP" else {}))
    uri = _data_uri(buffer.getvalue(), f"image/{format.lower()}")
    return f'<img src="{uri}" alt="{html.escape(label)}" width="{image.width}" height="{image.height}">'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
