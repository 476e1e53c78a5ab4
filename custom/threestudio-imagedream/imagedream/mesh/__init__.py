"""A field becomes textured mesh files.

The story is `mesh_field`: sample the density, choose the isosurface level whose silhouettes agree best with the
field's own rendered opacity, clean and simplify the surface, unwrap it, and take the texture from many rendered views.
`mesh_surface` does the same for fields that have a surface of their own. `export` packs the result as GLB, OBJ, PLY, STL
or USDZ, loads the files again and compares them with the field. World axes are those of `cameras` (z up, front +x); only
the packing turns them into glTF's (y up, front +z). Pictures of meshes: `raycast`.
"""

from imagedream.mesh.export import export, load_exported, summary
from imagedream.mesh.field_to_mesh import MeshedField, MeshSettings, mesh_field, mesh_surface
from imagedream.mesh.surface import EmptyFieldError
from imagedream.mesh.writing import FORMATS, TexturedMesh

__all__ = [
    "FORMATS",
    "EmptyFieldError",
    "MeshSettings",
    "MeshedField",
    "TexturedMesh",
    "export",
    "load_exported",
    "mesh_field",
    "mesh_surface",
    "summary",
]
