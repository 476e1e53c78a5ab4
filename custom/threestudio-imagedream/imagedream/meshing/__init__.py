"""A density and colour field becomes one textured mesh file.

The story is `mesh_field`: sample the density, choose the isosurface level whose silhouettes agree best with the
field's own rendered opacity, clean and simplify the surface, unwrap it, bake the texture by short volume-rendering
rays, and pack everything as GLB or OBJ. Every step is a function of its own. World axes are those of `cameras`
(z up, front +x); only the packing turns them into glTF's (y up, front +z).
"""

from imagedream.meshing.convert import MeshedField, MeshSettings, MeshStatistics, compare, mesh_field
from imagedream.meshing.field import (
    DensityGrid,
    composite,
    render_field,
    sample_box,
    sphere_views,
    visible_density,
)
from imagedream.meshing.formats import (
    FORMATS,
    check_format,
    save,
    textured_trimesh,
    to_files,
    to_glb_bytes,
    to_obj_files,
)
from imagedream.meshing.surface import (
    EmptyFieldError,
    LevelChoice,
    choose_level,
    clean_surface,
    extract_surface,
    sample_density,
    silhouette_iou,
)
from imagedream.meshing.texture import UnwrappedMesh, bake_texture, fill_gaps, rasterize_uv, unwrap

__all__ = [
    "FORMATS",
    "DensityGrid",
    "EmptyFieldError",
    "LevelChoice",
    "MeshSettings",
    "MeshStatistics",
    "MeshedField",
    "UnwrappedMesh",
    "bake_texture",
    "check_format",
    "choose_level",
    "clean_surface",
    "compare",
    "composite",
    "extract_surface",
    "fill_gaps",
    "mesh_field",
    "rasterize_uv",
    "render_field",
    "sample_box",
    "sample_density",
    "save",
    "silhouette_iou",
    "sphere_views",
    "textured_trimesh",
    "to_files",
    "to_glb_bytes",
    "to_obj_files",
    "unwrap",
    "visible_density",
]
