"""Exports of finished runs against the fields they were made from.

    python benchmarks/export.py --runs outputs/toybox_to_3d [--n 16] [--out benchmarks/results/export]

Takes the runs that `benchmarks/toybox_to_3d.py` left, loads the GLB of each, or exports it again (`--again`), and
compares it with the field over 16 views that its texture was not taken from. Beside it stands the same mesh with the
texture of one query of the field a texel and, with `--before`, what another checkout of this repository exports. What
stands in OUT.json is not measured again as long as the run's GLB is the same.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT / "embedded")]

import torch  # noqa: E402
import tyro  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

import threestudio  # noqa: E402
from imagedream.mesh.export import GOOD_PSNR_DB, load_exported  # noqa: E402
from imagedream.mesh.field import query  # noqa: E402
from imagedream.mesh.field_to_mesh import MeshSettings, mesh_field  # noqa: E402
from imagedream.mesh.surface import check_solid  # noqa: E402
from imagedream.mesh.texture import texels  # noqa: E402
from imagedream.mesh.writing import TexturedMesh, save, to_files  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """Which runs are exported; times are only comparable on a machine that does nothing else."""

    runs: Path = ROOT / "outputs" / "toybox_to_3d"
    """Folder of `benchmarks/toybox_to_3d.py`, one folder a toy; nothing in it is changed."""
    config: str = "imagedream-toybox.yaml"
    """What `launch.py --config` is given."""
    toys: tuple[str, ...] = ()
    """Which of them; none for all."""
    n: int | None = None
    """The first N of them, the kinds taking turns."""
    again: bool = False
    """Export by `launch.py --export` what the run has exported already, as after a change of the code."""
    before: Path | None = None
    """Another checkout of this repository, exported with as well; implies --again."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """key=value for `launch.py`."""


def again(settings: Settings) -> bool:
    return settings.again or settings.before is not None


def export(checkout: Path, toy: Path, settings: Settings, folder: Path) -> dict:
    """Run `launch.py --export` of a checkout: the GLB, its record and the seconds."""
    command = [sys.executable, "launch.py", "--config", settings.config, "--export"]
    command += [f"resume={toy / 'run' / 'toy' / 'ckpts' / 'last.ckpt'}", f"exp_root_dir={folder}"]
    command += [f"system.prompt_processor.image_path={toy / 'prompt.png'}"]
    command += ["name=run", "tag=toy", "use_timestamp=false", *settings.overrides]
    # an editable installation may point to another checkout
    environment = {**os.environ, "PYTHONPATH": str(checkout / "custom" / "threestudio-imagedream")}
    result = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{toy.name}: launch.py failed\n{result.stderr[-2000:]}")
    return read_export(folder / "run" / "toy" / "save")


def read_export(save: Path) -> dict:
    """What a run exported last."""
    glb = max(save.glob("it*-export/model.glb"), key=lambda path: path.stat().st_mtime_ns)
    seconds = json.loads((save / "run.json").read_text())["seconds"]["export"]
    return {"glb": glb, "seconds": seconds, "record": json.loads(glb.with_suffix(".json").read_text())}


def read_field(trial: Path) -> tuple:
    """Density and colour functions of a finished run, and the half side of its cube."""
    cfg = OmegaConf.load(trial / "configs" / "parsed.yaml").system
    checkpoint = torch.load(trial / "ckpts" / "last.ckpt", weights_only=True, map_location="cpu")
    geometry = threestudio.find(cfg.geometry_type)(cfg.geometry).eval()
    material = threestudio.find(cfg.material_type)(cfg.material).eval()
    for name, module in (("geometry", geometry), ("material", material)):
        prefix = f"{name}."
        state = {
            k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)
        }
        module.load_state_dict(state)

    def colour(points: torch.Tensor) -> torch.Tensor:
        return material.export(points=points, **geometry.export(points=points))["albedo"]

    return lambda points: geometry.forward_density(points)[..., 0], colour, float(cfg.geometry.radius)


@torch.no_grad()
def compare(toy: Path, settings: Settings) -> dict:
    """All there is to know about the exports of one run."""
    exporter = OmegaConf.load(toy / "run" / "toy" / "configs" / "parsed.yaml").system.exporter
    density, colour, radius = read_field(toy / "run" / "toy")
    exported = read_export(toy / "run" / "toy" / "save")
    mesh_settings = MeshSettings(
        resolution=exporter.resolution,
        isosurface_threshold=exported["record"]["level"],
        target_faces=exporter.target_faces,
        texture_size=exporter.texture_size,
    )
    meshed = mesh_field(density, colour, radius, mesh_settings)
    places = texels(meshed.model.mesh, exporter.texture_size)
    twin = TexturedMesh(meshed.model.mesh, places.picture(query(colour, places.positions)))
    views = meshed.views
    result = {"toy": toy.name, "field_opacity": views.mean_opacity, "hard_edges_db": views.hard_edges_psnr_db}
    checkouts = {"now": ROOT} if settings.before is None else {"before": settings.before, "now": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        twin_path = save(to_files(twin, "glb", "query"), folder)[0]
        result["query"] = vars(views.agreement(load_exported(twin_path)))
        for name, checkout in checkouts.items():
            if again(settings):
                exported = export(checkout.resolve(), toy, settings, Path(folder) / name)
            mesh = load_exported(exported["glb"])
            result[name] = {
                **vars(views.agreement(mesh)),
                "faces": len(mesh.faces),
                "solid": vars(check_solid(mesh)),
                "bytes": exported["glb"].stat().st_size,
                "seconds": exported["seconds"],
            }
            if name == "now":
                result[name]["inpainted"] = exported["record"]["inpainted"]
    return result


def table_row(result: dict) -> dict:
    """One row of the table."""
    names = [name for name in ("before", "query", "now") if name in result]
    row = {"toy": result["toy"], "opacity": result["field_opacity"], "edges dB": result["hard_edges_db"]}
    row |= {f"{name} dB": result[name]["psnr_db"] for name in names}
    row |= {f"{name} colours dB": result[name]["colour_psnr_db"] for name in names}
    names.remove("query")
    row |= {f"{name} IoU": result[name]["silhouette_iou"] for name in names}
    row |= {f"{name} s": result[name]["seconds"] for name in names}
    row |= {"faces": result["now"]["faces"], "MiB": result["now"]["bytes"] / 2**20}
    return row | {"watertight": float(result["now"]["solid"]["watertight"])}


def report(results: list[dict], settings: Settings) -> str:
    """What was measured, as Markdown."""
    rows = [table_row(result) for result in results]
    mean = mean_scores([{k: v for k, v in row.items() if k != "toy"} for row in rows])
    good = sum(result["now"]["psnr_db"] >= GOOD_PSNR_DB for result in results)
    possible = sum(result["hard_edges_db"] >= GOOD_PSNR_DB for result in results)
    gained = sum(result["now"]["psnr_db"] - result["hard_edges_db"] for result in results) / len(results)
    command = f"python benchmarks/export.py --runs RUNS --n {len(results)}"
    command += " --again" * settings.again + " --before CHECKOUT" * (settings.before is not None)
    lines = [
        f"`{command}` with `{settings.config}`, overrides: {' '.join(settings.overrides) or 'none'}; {os.cpu_count()} CPU "
        f"cores, torch {torch.__version__}",
        "Exported GLBs, loaded again and rendered unlit, against the volume-rendered field: mean PSNR over 16 views on "
        "white; PSNR of the colours alone where both are more than half opaque; silhouette IoU; seconds of the whole "
        "export phase as the run took it, whatever else the machine did. *query*: the same mesh with the colour at each texel's place on the surface instead of what "
        "viewers see. *opacity*: of the field inside its outline; what is missing to 1 is haze, which no mesh shows. "
        "*edges*: the field's own colours, opaque where it is more than half opaque and white elsewhere: what haze alone "
        "costs, beyond which a mesh can hardly get.",
        markdown_table([*rows, {"toy": "mean", **mean, "faces": round(mean["faces"])}]),
        f"{good} of {len(results)} reach {GOOD_PSNR_DB:.0f} dB; of the fields with hard edges, {possible} do. "
        f"Exported files are on average {gained:+.2f} dB from those.",
    ]
    return "\n\n".join(lines)


def main(settings: Settings) -> int:
    """Export, compare, report."""
    torch.set_num_threads(2)
    found = [path.parents[4] for path in settings.runs.resolve().glob("*/run/toy/save/it*-export/model.glb")]
    found.sort(key=lambda toy: int(toy.name.rpartition("-")[2]))  # kind-NUMBER
    chosen = [toy for toy in found if not settings.toys or toy.name in settings.toys][: settings.n]
    if not chosen:
        sys.exit(
            f"no finished runs in {settings.runs}; run benchmarks/toybox_to_3d.py --work {settings.runs} first"
        )
    kept = Path(f"{settings.out}.json") if settings.out is not None and not again(settings) else None
    before = json.loads(kept.read_text())["toys"] if kept is not None and kept.is_file() else []
    measured = {(result["toy"], result["glb"]): result for result in before}
    results = []
    for number, toy in enumerate(chosen):
        glb = hashlib.sha256(read_export(toy / "run" / "toy" / "save")["glb"].read_bytes()).hexdigest()[:12]
        results.append(measured.get((toy.name, glb)) or {**compare(toy, settings), "glb": glb})
        summary = "  ".join(f"{k} {v:.4g}" for k, v in list(table_row(results[-1]).items())[1:])
        print(f"{number + 1}/{len(chosen)} {toy.name}: {summary}", flush=True)
        text = report(results, settings)
        if settings.out is not None:
            save_results(settings.out, f"# Export\n\n{text}", {"toys": results})
    print("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
