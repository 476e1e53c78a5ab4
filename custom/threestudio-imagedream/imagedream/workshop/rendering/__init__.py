"""Meshes -> views on the CPU: training data, evaluation, previews."""

from imagedream.mesh.raycast import Light, Raycaster, Views, render
from imagedream.mesh.reading import MeshError, from_gltf_axes, load_mesh, normalise, to_gltf_axes

__all__ = [
    "Light",
    "MeshError",
    "Raycaster",
    "Views",
    "from_gltf_axes",
    "load_mesh",
    "normalise",
    "render",
    "to_gltf_axes",
]
