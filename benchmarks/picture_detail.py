"""What a picture's own pixels do for a mesh, on held-out toys and meshes whose cameras and true looks are known.

    python benchmarks/picture_detail.py --n 32 [--runs outputs/toybox_to_3d] [--meshes DIR --only FILE --n-meshes 24]
        [--out benchmarks/results/picture_detail]

Each object is given the picture that it was asked for with, at `--pixels` instead of the small model's 64. Three kinds of meshes:
*blurred toy* and *blurred mesh*, the true shape with a texture without detail, which tests the projection alone, its camera
estimated from that mesh; and *run*, the GLB of a toy's finished run of `benchmarks/toybox_to_3d.py ...
system.exporter.picture_detail=off`, with the camera that the run estimated. Views are scored on white from true cameras: the
prompt's own azimuth and others counted from it. As a run's shape does not lie exactly where the toy's does, sharp colours cannot
match there pixel by pixel; so *in the picture* tells what the gates see, the mesh from the refined camera against the picture.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402
from torchmetrics.functional.image import (  # noqa: E402
    multiscale_structural_similarity_index_measure as multiscale_ssim,
)

from imagedream import cameras, checkpoints  # noqa: E402
from imagedream.image_prompt.picture_projection import add_picture_detail, textured_caster  # noqa: E402
from imagedream.image_prompt.prompt import OBJECT_FRACTION, place  # noqa: E402
from imagedream.image_prompt.prompt_camera import (  # noqa: E402
    PromptCamera,
    clip_features,
    estimate_prompt_camera,
)
from imagedream.mesh import MeshSettings, mesh_surface  # noqa: E402
from imagedream.mesh.gltf_axes import from_gltf_axes  # noqa: E402
from imagedream.mesh.raycast import Raycaster  # noqa: E402
from imagedream.mesh.texture import UnwrappedMesh  # noqa: E402
from imagedream.mesh.writing import TexturedMesh  # noqa: E402
from imagedream.metrics import psnr  # noqa: E402
from imagedream.pictures import contact_sheet, premultiplied  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import (  # noqa: E402
    HeldOutCase,
    HeldOutMesh,
    Orbit,
    held_out_cases,
    held_out_meshes,
)
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.rendering.captioned_files import find_items, read_names  # noqa: E402

VIEWS = {"prompt's view": (0,), "±20°": (20, -20), "±40°": (40, -40), "other sides": (90, 180, 270)}
"""Azimuths from the prompt's own."""
VIEW_PX = 192  # five scales of SSIM need over 160
SIDE = 0.6  # half side of the box in which toys lie
CELLS = 40
LOST_DB = 0.1
"""An object is worse if the mean of its views lost more."""


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    n: int = 32
    """Number of toys."""
    seed: int = 0
    """Number of the first toy."""
    meshes: str = ""
    """Folder of meshes, as `imagedream evaluate views --meshes`; none for toys only."""
    only: str = ""
    """Which of them, as `imagedream evaluate views --only`."""
    n_meshes: int = 24
    """Number of meshes."""
    runs: Path = ROOT / "outputs" / "toybox_to_3d"
    """Folder of `benchmarks/toybox_to_3d.py`; what is finished there is measured too. Nothing in it is changed."""
    blurred: bool = True
    """Measure the true shapes with blurred textures."""
    pixels: int = 512
    """Side of the pictures."""
    out: Path | None = None
    """Write OUT.md, OUT.json and OUT.png."""


def surface_points(case: HeldOutCase) -> tuple[np.ndarray, np.ndarray]:
    """Points of an object's surface (point, 3) and their colours as lit, of what is seen from around, above and below."""
    azimuths = torch.arange(0, 360, 45.0)
    elevations = torch.tensor([-80.0, -30.0, 0.0, 30.0, 80.0])
    fov = torch.full((len(azimuths) * len(elevations),), case.orbit.fov_y_deg)
    distance = cameras.framing_distance(case.orbit.relative_distance, fov)
    poses = cameras.look_at_origin(
        elevations.repeat_interleave(len(azimuths)), azimuths.repeat(len(elevations)), distance
    )
    views = Raycaster(case.object.mesh).render(poses, fov, VIEW_PX, supersample=1)
    origins, directions = cameras.rays(poses, fov, VIEW_PX, VIEW_PX)
    along = (directions * -poses[:, None, None, :3, 2]).sum(-1)
    seen = views.depth.isfinite()
    points = origins[seen] + directions[seen] * (views.depth / along)[seen][:, None]
    return points.numpy(), views.rgba[:, :3].movedim(1, -1)[seen].numpy()


def blurred(case: HeldOutCase) -> TexturedMesh:
    """An object's true shape; its colours, as lit, are means over about a twentieth of its size."""
    mesh = case.object.mesh
    if isinstance(mesh, tuple):
        mesh = trimesh.util.concatenate([trimesh.Trimesh(part.vertices, part.faces) for part in mesh])
    points, colours = surface_points(case)
    cells = ((points + SIDE) / (2 * SIDE) * CELLS).astype(int).clip(0, CELLS - 1)
    sums = np.zeros((CELLS, CELLS, CELLS, 4))
    np.add.at(sums, tuple(cells.T), np.insert(colours.astype(float), 3, 1, axis=1))
    sums = ndimage.gaussian_filter(sums, (1, 1, 1, 0))
    grid = torch.from_numpy(sums[..., :3] / sums[..., 3:].clip(1e-9)).float().movedim(-1, 0)[None]

    def colour_fn(where: torch.Tensor) -> torch.Tensor:
        read = torch.nn.functional.grid_sample(
            grid, (where / SIDE).flip(-1).reshape(1, -1, 1, 1, 3), align_corners=False
        )
        return read[0, :, :, 0, 0].T

    settings = MeshSettings(target_faces=0, min_piece=0.0, normal_map=False)
    return mesh_surface(mesh, colour_fn, settings).model


def read_glb(path: Path) -> TexturedMesh:
    """A mesh that this project has exported."""
    mesh = trimesh.load(path, process=False, force="mesh")
    vertices, normals = (
        from_gltf_axes(np.asarray(values)) for values in (mesh.vertices, mesh.vertex_normals)
    )
    _, source = np.unique(vertices, axis=0, return_inverse=True)
    uncut = UnwrappedMesh(vertices, normals, mesh.faces, mesh.visual.uv, source.reshape(-1))
    return TexturedMesh(uncut, np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")))


def cases_of(case: HeldOutCase, settings: Settings, features):
    """(kind, mesh, estimated camera) of an object."""
    trial = settings.runs / case.label / "run" / "toy" / "save"
    for path in sorted(trial.glob("it*-export/model.glb")):
        if json.loads(path.with_suffix(".json").read_text())["picture_detail"]:
            raise ValueError(f"{path} has the picture's pixels; run with system.exporter.picture_detail=off")
        noted = json.loads((trial / "run.json").read_text())["prompt_cameras"]["field"]
        yield "run of a toy", read_glb(path), PromptCamera.from_dict(noted[0])
    if settings.blurred:
        model = blurred(case)
        caster = textured_caster(model)

        def render(camera_to_world, fov_y_deg, size):
            rgba = caster.render(camera_to_world, fov_y_deg, size, light=None).rgba
            return premultiplied(rgba)

        distance = case.orbit.relative_distance
        kind = "blurred mesh" if isinstance(case.object, HeldOutMesh) else "blurred toy"
        yield kind, model, estimate_prompt_camera(case.prompt, render, distance, features=features)


def measure(case: HeldOutCase, settings: Settings, encoder) -> tuple[list[dict], list[list]]:
    """Scores and pictures of an object's meshes, before and after."""
    rows, pictures = [], []
    true_mesh = case.object.mesh
    seen = Orbit((case.prompt_azimuth_deg,), case.prompt_elevation_deg)
    picture = place(seen.views(true_mesh, settings.pixels).rgba[0], settings.pixels, OBJECT_FRACTION)
    offsets = [offset for group in VIEWS.values() for offset in group]
    orbit = replace(seen, azimuths_deg=tuple(case.prompt_azimuth_deg + offset for offset in offsets))
    truth = orbit.on_white(true_mesh, VIEW_PX)

    def embed(shown: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encoder.encode_image(shown).embedding

    for kind, model, camera in cases_of(case, settings, clip_features(encoder)):
        start = time.process_time()
        detailed, (record,) = add_picture_detail(model, [picture], [camera], embed)
        row = {"object": case.label, "mesh": kind, "seconds": time.process_time() - start, "record": record}
        row["azimuth_error_deg"] = abs((camera.azimuth_deg - case.prompt_azimuth_deg + 180) % 360 - 180)
        views = [plain_views(one, orbit) for one in (model, detailed)]
        row["psnr_db"] = [psnr(view, truth).tolist() for view in views]
        row["ms_ssim"] = [
            multiscale_ssim(view, truth, data_range=1.0, reduction="none").tolist() for view in views
        ]
        rows.append(row)
        pictures.append(
            [truth[0], views[0][0], views[1][0], truth[1], views[0][1], views[1][1], views[0][6], views[1][6]]
        )
        told = record["refused"] or " -> ".join(f"{value:.2f} dB" for value in record["psnr_db"])
        change = (torch.tensor(row["psnr_db"][1]) - torch.tensor(row["psnr_db"][0])).tolist()
        print(f"{case.label} {kind}: {told}; {' '.join(f'{value:+.2f}' for value in change)}", flush=True)
    return rows, pictures


def plain_views(model: TexturedMesh, orbit: Orbit) -> torch.Tensor:
    """Views on white in the mesh's own colours."""
    mesh = model.mesh
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(model.base_colour))
    visual = trimesh.visual.TextureVisuals(mesh.uv, material)
    return orbit.on_white(
        trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False), VIEW_PX, lit=False
    )


def summary(rows: list[dict]) -> list[dict]:
    """A row for each kind of mesh and score: means over the objects whose pictures passed the gates."""
    table = []
    for kind in dict.fromkeys(row["mesh"] for row in rows):
        used = [row for row in rows if row["mesh"] == kind and row["record"]["refused"] is None]
        for key, told, name in (("psnr_db", "psnr_db", "PSNR dB"), ("ms_ssim", "ssim", "MS-SSIM")):
            if not used:
                continue
            in_picture = torch.tensor([row["record"][told] for row in used]).mean(0)
            scores = torch.tensor([row[key] for row in used]).mean(0)  # before, after x views
            for when, index in (("before", 0), ("after", 1)):
                line = {"mesh": kind, "score": f"{name} {when}", "in the picture": float(in_picture[index])}
                start = 0
                for group, offsets in VIEWS.items():
                    line[group] = float(scores[index, start : start + len(offsets)].mean())
                    start += len(offsets)
                table.append(line)
    return table


def shares(rows: list[dict]) -> list[dict]:
    """How many pictures passed, what the others were refused for, how many meshes became worse."""
    table = []
    for kind in dict.fromkeys(row["mesh"] for row in rows):
        chosen = [row for row in rows if row["mesh"] == kind]
        used = [row for row in chosen if row["record"]["refused"] is None]
        changes = [
            float((torch.tensor(row["psnr_db"][1]) - torch.tensor(row["psnr_db"][0])).mean()) for row in used
        ]
        ssims = [
            float((torch.tensor(row["ms_ssim"][1]) - torch.tensor(row["ms_ssim"][0])).mean()) for row in used
        ]
        table.append(
            {
                "mesh": kind,
                "objects": len(chosen),
                "passed": len(used),
                f"lost over {LOST_DB} dB": sum(change < -LOST_DB for change in changes),
                "lost MS-SSIM": sum(change < 0 for change in ssims),
                "CPU seconds": float(np.mean([row["seconds"] for row in chosen])),
            }
        )
    return table


def report(rows: list[dict], settings: Settings) -> str:
    """What was measured, as Markdown."""
    refused = [
        f"{row['object']} ({row['mesh']}): {row['record']['refused']}"
        for row in rows
        if row["record"]["refused"]
    ]
    meshes = f" --meshes DIR --only {settings.only} --n-meshes {settings.n_meshes}" if settings.meshes else ""
    return "\n\n".join(
        [
            f"`python benchmarks/picture_detail.py --n {settings.n}{meshes}`, pictures of {settings.pixels} px, views of {VIEW_PX} px on "
            f"white; {os.cpu_count()} CPU cores, torch {torch.__version__}",
            "Means over the objects whose picture passed the gates; SSIM *in the picture* is of one scale.",
            markdown_table(summary(rows)),
            "Of all views of an object together; CPU seconds of the whole step.",
            markdown_table(shares(rows)),
            "\n".join(f"- refused: {line}" for line in refused),
        ]
    )


def main(settings: Settings) -> int:
    """Measure, report."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    encoder = checkpoints.load_part("toybox", "encoder")[0]
    rows, pictures = [], []
    cases = held_out_cases(settings.n, settings.seed)
    if settings.meshes:
        items = find_items(settings.meshes, "none", read_names(settings.only or None))
        cases += held_out_meshes(items, settings.n_meshes, settings.seed)
    for case in cases:
        of_case, shown = measure(case, settings, encoder)
        rows, pictures = rows + of_case, pictures + shown
        if settings.out is not None:
            save(rows, pictures, settings)
    print("\n" + report(rows, settings))
    return 0


def save(rows: list[dict], pictures: list[list], settings: Settings) -> None:
    """Write what is there by now."""
    told = {key: value for key, value in asdict(settings).items() if key not in ("runs", "meshes", "out")}
    columns = ("true", "before", "after", "true +20°", "before", "after", "back before", "after")
    names = [f"{row['object']} {row['mesh']}" for row in rows]
    sheet = contact_sheet(columns, pictures, names=names)
    save_results(
        settings.out,
        f"# The picture's own pixels\n\n{report(rows, settings)}",
        {"settings": told, "rows": rows},
        sheet,
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
