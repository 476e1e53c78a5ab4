"""A field becomes textured mesh files.

The story is `mesh_field`: sample the density, choose the isosurface level whose silhouettes agree best with the
field's own rendered opacity, clean and simplify the surface, unwrap it, and take the texture from many rendered views.
`mesh_surface` does the same for fields that have a surface of their own. `export` packs the result as GLB, OBJ, PLY, STL
or USDZ, loads the files again and compares them with the field. Every step is a function of its own. World axes are
those of `cameras` (z up, front +x); only the packing turns them into glTF's (y up, front +z).
"""

from imagedream.mesh.bake import bake_colours, inpaint, query_colours
from imagedream.mesh.check import Agreement, FieldViews, load
from imagedream.mesh.convert import (
    MeshedField,
    MeshSettings,
    MeshStatistics,
    mesh_field,
    mesh_surface,
)
from imagedream.mesh.export import GOOD_PSNR_DB, export, summary
from imagedream.mesh.field import (
    DensityGrid,
    composite,
    render_field,
    render_surface,
    sample_box,
    sphere_views,
    spread_views,
    visible_density,
)
from imagedream.mesh.isosurface import (
    LevelChoice,
    choose_level,
    level_thumbnails,
    sample_density,
    silhouette_iou,
)
from imagedream.mesh.normals import normal_map, tangents
from imagedream.mesh.surface import (
    EmptyFieldError,
    Solidity,
    check_solid,
    clean_surface,
    close_gaps,
    extract_surface,
)
from imagedream.mesh.texture import Texels, UnwrappedMesh, fill_gaps, rasterize_uv, texels, unwrap
from imagedream.mesh.writing import (
    FORMATS,
    TexturedMesh,
    check_format,
    check_name,
    save,
    to_files,
    upward,
)

__all__ = [
    "FORMATS",
    "GOOD_PSNR_DB",
    "Agreement",
    "DensityGrid",
    "EmptyFieldError",
    "FieldViews",
    "LevelChoice",
    "MeshSettings",
    "MeshStatistics",
    "MeshedField",
    "Solidity",
    "Texels",
    "TexturedMesh",
    "UnwrappedMesh",
    "bake_colours",
    "check_format",
    "check_name",
    "check_solid",
    "choose_level",
    "clean_surface",
    "close_gaps",
    "composite",
    "export",
    "extract_surface",
    "fill_gaps",
    "inpaint",
    "level_thumbnails",
    "load",
    "mesh_field",
    "mesh_surface",
    "normal_map",
    "query_colours",
    "rasterize_uv",
    "render_field",
    "render_surface",
    "sample_box",
    "sample_density",
    "save",
    "silhouette_iou",
    "sphere_views",
    "spread_views",
    "summary",
    "tangents",
    "texels",
    "to_files",
    "unwrap",
    "upward",
    "visible_density",
]
