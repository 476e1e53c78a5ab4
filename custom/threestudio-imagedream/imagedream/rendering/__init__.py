"""Meshes -> views on the CPU: training data, evaluation, previews."""

from imagedream.rendering.meshes import MeshError, from_gltf_axes, load_mesh, normalise, to_gltf_axes
from imagedream.rendering.raycast import Light, Raycaster, Views, render

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
