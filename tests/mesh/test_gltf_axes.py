import numpy as np
import torch

from imagedream.mesh.gltf_axes import from_gltf_axes, to_gltf_axes


def test_gltf_axes_front_left_up_and_back():
    # glTF: the front is +z, up is +y; a right-handed frame then puts the object's left at +x
    assert to_gltf_axes(np.eye(3)).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    for points in (np.random.default_rng(0).normal(size=(7, 3)), torch.arange(6.0).reshape(2, 3)):
        assert (from_gltf_axes(to_gltf_axes(points)) == points).all()
        assert (to_gltf_axes(from_gltf_axes(points)) == points).all()
