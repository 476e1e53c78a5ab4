"""World axes and glTF's: ours is +z up with the front at +x (`imagedream.cameras`), glTF is +y up with the front at +z."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

Points = Float[np.ndarray, "*batch 3"] | Float[Tensor, "*batch 3"]


def to_gltf_axes(vertices: Points) -> Points:
    """World axes (+z up, front +x) to glTF axes (+y up, front +z), a rotation.

    >>> to_gltf_axes(np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 3.0, 1.0]
    """
    return vertices[..., [1, 2, 0]]


def from_gltf_axes(vertices: Points) -> Points:
    """From glTF axes (+y up, front +z) to world axes (+z up, front +x), the inverse of `to_gltf_axes`."""
    return vertices[..., [2, 0, 1]]
