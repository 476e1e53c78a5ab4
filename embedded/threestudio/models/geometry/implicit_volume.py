"""implicit-volume: density and features from an encoding and two small networks."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.ops import get_activation, scale_tensor

_NORMAL_TYPES = ("finite_difference", "analytic")


@threestudio.register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    """Density σ = activation(network(encoding(x)) + bias(x)); normals point outwards, against the density's gradient."""

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_feature_dims: int = 3
        density_activation: str | None = "softplus"
        density_bias: float | str = "blob_magic3d"
        density_blob_scale: float = 10.0
        density_blob_std: float = 0.5
        # what is not said is as in `networks`: 16 levels of 2 features, the finest one 4096; 1 hidden layer of 64 neurons
        pos_encoding_config: dict = field(
            default_factory=lambda: {"otype": "HashGrid", "per_level_scale": 1.447269237440378}
        )
        mlp_network_config: dict = field(default_factory=lambda: {"otype": "VanillaMLP"})
        normal_type: str | None = "finite_difference"
        finite_difference_normal_eps: float = 0.01

    cfg: Config

    def configure(self) -> None:
        super().configure()
        normal_type, bias = self.cfg.normal_type, self.cfg.density_bias
        if normal_type not in (None, *_NORMAL_TYPES):
            raise ValueError(
                f"normal_type is {normal_type!r}, here it can be {', '.join(_NORMAL_TYPES)} or null; the rest is "
                "threestudio's"
            )
        if isinstance(bias, str) and bias != "blob_magic3d":
            raise ValueError(
                f"density_bias is {bias!r}, here it can be 'blob_magic3d' or a float; the rest is threestudio's"
            )
        self.encoding = get_encoding(3, self.cfg.pos_encoding_config)
        width, network = self.encoding.n_output_dims, self.cfg.mlp_network_config
        self.density_network = get_mlp(width, 1, network)
        self.feature_network = get_mlp(width, self.cfg.n_feature_dims, network)
        self.density_activation = get_activation(self.cfg.density_activation)

    def get_activated_density(
        self, points: Float[Tensor, "*batch dim"], density: Float[Tensor, "*batch 1"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
        """The network's output at world points plus the bias, before and after the activation."""
        bias = self.cfg.density_bias
        if bias == "blob_magic3d":  # Magic3D, supplementary: a cone around the origin
            distance = points.norm(dim=-1, keepdim=True)
            bias = self.cfg.density_blob_scale * (1 - distance / self.cfg.density_blob_std)
        raw = density + bias
        return raw, self.density_activation(raw)

    def _encode(self, points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch feature"]:
        unit = scale_tensor(points, self.bbox, (0, 1))
        return self.encoding(unit.reshape(-1, 3)).view(*points.shape[:-1], -1)

    def forward(self, points: Float[Tensor, "*batch dim"], output_normal: bool = False) -> dict[str, Tensor]:
        """`density` (*batch, 1), `features`, and on request unit `normal` and `shading_normal`, at world points."""
        analytic = output_normal and self.cfg.normal_type == "analytic"
        grad_enabled = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad_enabled or analytic):
            if analytic and not points.requires_grad:
                points = points.detach().requires_grad_(True)
            encoded = self._encode(points)
            raw, density = self.get_activated_density(points, self.density_network(encoded))
            output = {"density": density, "features": self.feature_network(encoded)}
            if output_normal:
                normal = self._normal(points, raw, density)
                output |= {"normal": normal, "shading_normal": normal}
        return output if grad_enabled else {key: value.detach() for key, value in output.items()}

    def _normal(self, points: Tensor, raw: Tensor, density: Tensor) -> Float[Tensor, "*batch 3"]:
        if self.cfg.normal_type == "analytic":
            # the activation is increasing, so the gradient before it points the same way, and does not underflow
            normal = -torch.autograd.grad(raw.sum(), points, create_graph=True)[0]
        elif self.cfg.normal_type == "finite_difference":
            eps = self.cfg.finite_difference_normal_eps
            normal = (density - self._density_at(points, eps * torch.eye(3, device=points.device))) / eps
        else:
            raise AttributeError(
                f"normals were asked for, but normal_type is None; it can be one of {_NORMAL_TYPES}"
            )
        return F.normalize(normal, dim=-1)

    def _density_at(
        self, points: Tensor, offsets: Float[Tensor, "offset 3"]
    ) -> Float[Tensor, "*batch offset"]:
        shifted = points[..., None, :] + offsets
        return self.forward_density(shifted.clamp(-self.cfg.radius, self.cfg.radius))[..., 0]

    def forward_density(self, points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 1"]:
        """Density per world unit."""
        return self.get_activated_density(points, self.density_network(self._encode(points)))[1]

    def export(self, points: Float[Tensor, "*batch dim"], **kwargs) -> dict[str, Tensor]:
        return {"features": self.feature_network(self._encode(points))}
