"""The same pictures from Blender's path tracer Cycles, through the `bpy` package: light between surfaces, real materials, slower.

`bpy` wants one version of Python and numpy below 2, so it is best kept in an environment of its own (docs/training.md; tried
with bpy 5.0.1). It holds one scene a process. The cameras are this project's: Blender's agree with them.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import trimesh
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from imagedream.mesh.raycast import Light
from imagedream.runs.locks import temporary_folder

_TO_GLTF = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Blender's reader turns (x, y, z) of a glTF file into (x, −z, y); this makes such a file of world axes."""

_PATHS = 16
"""Light paths a sample of the supersampling; what noise they leave is removed."""


class BlenderScene:
    """An object for Cycles on the CPU with one thread.

    Args:
        parts: of the object, in the unit cube and world axes.

    Raises:
        ImportError: `bpy` is not installed.
    """

    def __init__(self, parts: Sequence[trimesh.Trimesh]):
        try:
            with _quiet():
                import bpy
        except ImportError as error:
            raise ImportError(
                "--backend blender needs Blender's Python package: pip install 'imagedream[blender]', "
                f"which has wheels for few versions of Python (this is {sys.version.split()[0]}): {error}"
            ) from error
        self._bpy = bpy
        with _quiet(), temporary_folder() as folder:
            bpy.ops.wm.read_factory_settings(use_empty=True)
            file = str(folder / "parts.glb")
            trimesh.Scene([_for_gltf(part) for part in parts]).export(file)
            bpy.ops.import_scene.gltf(filepath=file)
        self._show_vertex_colours()
        self._set_up()

    def photograph(
        self,
        camera_to_world: Float[Tensor, "view 4 4"],
        fov_y_deg: Float[Tensor, " view"],
        size: int,
        light: Light | None,
        supersample: int,
    ) -> UInt8[np.ndarray, "view {size} {size} 4"]:
        """See `imagedream.workshop.rendering.object_views.RaycastScene`; without a light it stands under a plain white sky."""
        from mathutils import Matrix, Vector

        scene, camera = self._bpy.context.scene, self._bpy.context.scene.camera
        scene.render.resolution_x = scene.render.resolution_y = size
        scene.cycles.samples = _PATHS * supersample**2
        sky = scene.world.node_tree.nodes["Background"].inputs
        sky["Color"].default_value = (1, 1, 1, 1)
        sky["Strength"].default_value = light.ambient if light else 1.0
        # a white surface that faces the sun reflects its strength over pi
        self._sun.data.energy = np.pi * light.diffuse if light else 0.0
        towards = Vector(light.direction if light else (0, 0, 1))
        self._sun.rotation_euler = towards.to_track_quat("Z", "Y").to_euler()
        pictures = []
        with temporary_folder() as folder:
            scene.render.filepath = str(folder / "view.png")
            for pose, fov in zip(camera_to_world.tolist(), fov_y_deg.tolist(), strict=True):
                camera.matrix_world = Matrix(pose)
                camera.data.angle = np.deg2rad(fov)
                with _quiet():
                    self._bpy.ops.render.render(write_still=True)
                with Image.open(scene.render.filepath) as picture:
                    pictures.append(np.array(picture))
        pixels = np.stack(pictures)
        pixels[pixels[..., 3] == 0] = 0
        return pixels

    def _show_vertex_colours(self) -> None:
        """Connect vertex colours, which the reader leaves unconnected."""
        for mesh in self._bpy.data.meshes:
            if not mesh.color_attributes:
                continue
            if not mesh.materials:
                material = self._bpy.data.materials.new("colours")
                material.use_nodes = True
                mesh.materials.append(material)
            for material in filter(None, mesh.materials):
                tree = material.node_tree
                surface = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
                if surface is None or surface.inputs["Base Color"].is_linked:
                    continue
                colours = tree.nodes.new("ShaderNodeVertexColor")
                colours.layer_name = mesh.color_attributes[0].name
                tree.links.new(colours.outputs["Color"], surface.inputs["Base Color"])

    def _set_up(self) -> None:
        """Renderer, camera, sky and sun."""
        bpy, scene = self._bpy, self._bpy.context.scene
        scene.render.engine = "CYCLES"
        scene.cycles.use_denoising = True
        scene.cycles.pixel_filter_type = "BOX"  # each pixel by itself, as the ray caster's
        scene.cycles.seed = 0
        scene.render.threads_mode, scene.render.threads = "FIXED", 1
        scene.render.film_transparent = True
        scene.render.resolution_percentage = 100
        scene.render.image_settings.file_format = "PNG"
        scene.render.image_settings.color_mode = "RGBA"
        scene.view_settings.view_transform = "Standard"
        scene.world = bpy.data.worlds.new("sky")
        scene.world.use_nodes = True
        scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        scene.camera.data.clip_start, scene.camera.data.clip_end = 0.01, 100.0
        self._sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
        for thing in (scene.camera, self._sun):
            scene.collection.objects.link(thing)


def _for_gltf(part: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy in glTF's axes, its face or vertex colours linear, as glTF wants them."""
    part = part.copy()
    part.apply_transform(_TO_GLTF)
    if isinstance(part.visual, trimesh.visual.ColorVisuals) and part.visual.defined:
        vertex = part.visual.kind == "vertex"
        colours = part.visual.vertex_colors if vertex else part.visual.face_colors
        colours = np.concatenate([(colours[:, :3] / 255) ** 2.2 * 255, colours[:, 3:]], axis=1)
        setattr(part.visual, "vertex_colors" if vertex else "face_colors", colours.round().astype(np.uint8))
    return part


@contextmanager
def _quiet() -> Iterator[None]:
    """Blender writes its progress to file descriptor 1, where only results belong."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
