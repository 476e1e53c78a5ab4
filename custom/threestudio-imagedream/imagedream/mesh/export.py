"""A meshed field -> files, which are loaded again and compared with the field they were made from."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trimesh

from imagedream.mesh.agreement import VIEWS
from imagedream.mesh.field_to_mesh import MeshedField
from imagedream.mesh.gltf_axes import from_gltf_axes
from imagedream.mesh.surface import check_solid
from imagedream.mesh.usdz import load_usdz
from imagedream.mesh.writing import FORMATS, Up, save, to_files, upward
from imagedream.runs.files import atomic_path

GOOD_PSNR_DB = 25.0
"""Below this the export warns that the file does not look like the field."""

_HAZY = 0.95
"""Of a field that is less opaque inside its outline every viewer sees another depth and so other colours; no texture can
show them all, and more faces, texels or views change nothing."""


def export(
    meshed: MeshedField, folder: str | Path, fmt: str = "glb", name: str = "model", up: Up = "auto"
) -> tuple[list[Path], dict[str, Any]]:
    """Write a meshed field, load the files again and compare them with the field.

    Args:
        meshed: of `mesh_field` or `mesh_surface`.
        folder: where the files go.
        fmt: one of `FORMATS`, or several joined by +.
        name: file name without ending.
        up: the axis that points up in OBJ, PLY and STL files.

    Returns:
        The files, mesh files before their pictures, and a record of all there is to know about them, ready for JSON
        (see `summary`); its `warnings` are sentences for people.
    """
    start = time.perf_counter()
    folder = Path(folder)
    paths = save(to_files(meshed.model, fmt, name, up), folder)
    files = [_check(path, meshed, up) for path in paths if path.suffix[1:] in FORMATS]
    if meshed.thumbnails is not None:
        paths.append(folder / f"{name}-levels.png")
        with atomic_path(paths[-1]) as temporary:
            meshed.thumbnails.save(temporary)
    record = {
        "level": meshed.level,
        "silhouette_iou_by_level": {f"{level:.4g}": iou for level, iou in meshed.tried.items()},
        "target_faces": meshed.settings.target_faces,
        "faces": len(meshed.model.mesh.faces),
        "vertices": len(meshed.model.mesh.uncut()[0]),
        "pieces_removed": meshed.pieces_removed,
        "texture_size": meshed.settings.texture_size,
        "inpainted": meshed.inpainted,
        "seconds": meshed.seconds + time.perf_counter() - start,
        "field_opacity": meshed.views.mean_opacity,
        "hard_edges_psnr_db": meshed.views.hard_edges_psnr_db,
        "files": files,
    }
    worst = min((f for f in files if f["psnr_db"] is not None), key=lambda f: f["psnr_db"], default=None)
    poor = worst is not None and worst["psnr_db"] < GOOD_PSNR_DB
    # a texture that shows more than the field is to differ from it; a hazy field is worth a word even so
    poor = poor and not (meshed.painted and record["field_opacity"] >= _HAZY)
    record["warnings"] = [_warning(worst, record)] if poor else []
    return paths, record


def load_exported(path: str | Path, up: Up = "auto") -> trimesh.Trimesh:
    """Read an exported file back as other programs do, in world axes; `up` as it was written."""
    kind = Path(path).suffix[1:].lower()
    if kind == "usdz":
        return load_usdz(path)
    (mesh,) = trimesh.load_scene(path, process=False).dump()
    if upward(kind, up) == "+y":
        mesh.vertices = from_gltf_axes(mesh.vertices)
    return mesh


def _check(path: Path, meshed: MeshedField, up: Up) -> dict[str, Any]:
    """What a file turned out to be when it was loaded again."""
    mesh = load_exported(path, up)
    agreement = meshed.views.agreement(mesh, has_colours=path.suffix != ".stl")
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "faces": len(mesh.faces),
        **asdict(agreement),
        "solid": asdict(check_solid(mesh)),
    }


def _warning(file: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    sentence = (
        f"{file['file']} does not look like the field: PSNR {file['psnr_db']:.1f} dB over {VIEWS} views "
        f"(good is above {GOOD_PSNR_DB:.0f})"
    )
    possible = (
        f"with hard edges, as a mesh has them, its own colours reach {record['hard_edges_psnr_db']:.1f} dB"
    )
    if record["field_opacity"] < _HAZY:
        return (
            f"{sentence}; the field is hazy, on average {100 * record['field_opacity']:.0f}% opaque inside its outline: "
            f"{possible}; longer optimisation makes it firmer"
        )
    return f"{sentence}; {possible}: target_faces, texture_size or bake_views are too small for it"


def summary(record: Mapping[str, Any]) -> list[str]:
    """The record of `export` as lines for a terminal."""
    asked = f" (at most {record['target_faces']} asked for)" if record["target_faces"] else ""
    level = "" if record["level"] is None else f", isosurface level {record['level']:.3g}"
    lines = [
        f"Mesh: {record['faces']} faces{asked}{level}, texture {record['texture_size']} px with "
        f"{100 * record['inpainted']:.1f}% inpainted, {record['seconds']:.1f} s"
    ]
    for file in record["files"]:
        solid = file["solid"]
        tunnels = f"{solid['tunnels']} tunnel{'' if solid['tunnels'] == 1 else 's'}"
        closed = f"watertight with {tunnels}" if solid["watertight"] else "not watertight"
        line = f"{file['file']}: {file['faces']} faces, {closed}, silhouette IoU {file['silhouette_iou']:.3f}"
        if file["psnr_db"] is not None:
            line += f", PSNR {file['psnr_db']:.1f} dB"
        lines.append(f"{line} against the field over {VIEWS} views")
    return lines
