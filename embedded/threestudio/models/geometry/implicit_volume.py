"""implicit-volume: density and features from an encoding and two small networks."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.geometry.base import BaseGeometry, BaseImplicitGeometry, contract_to_unisphere
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.ops import get_activation

_NORMAL_TYPES = ("finite_difference", "finite_difference_laplacian", "pred", "analytic")


@threestudio.register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    """Density σ = activation(network(encoding(x)) + bias(x)); normals point outwards, against the density's gradient."""

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: int = 3
        n_feature_dims: int = 3
        density_activation: str | None = "softplus"
        density_bias: float | str = "blob_magic3d"
        density_blob_scale: float = 10.0
        density_blob_std: float = 0.5
        pos_encoding_config: dict = field(
            default_factory=lambda: {
                "otype": "HashGrid",
                "n_levels": 16,
                "n_features_per_level": 2,
                "log2_hashmap_size": 19,
                "base_resolution": 16,
                "per_level_scale": 1.447269237440378,
            }
        )
        mlp_network_config: dict = field(
            default_factory=lambda: {
                "otype": "VanillaMLP",
                "activation": "ReLU",
                "output_activation": "none",
                "n_neurons": 64,
                "n_hidden_layers": 1,
            }
        )
        normal_type: str | None = "finite_difference"
        finite_difference_normal_eps: float = 0.01
        # the surface of a density field is sharp at a high threshold
        isosurface_threshold: float | str = 25.0
        anneal_density_blob_std_config: dict | None = None

    cfg: Config

    def configure(self) -> None:
        super().configure()
        if self.cfg.normal_type is not None and self.cfg.normal_type not in _NORMAL_TYPES:
            raise ValueError(
                f"normal_type is {self.cfg.normal_type!r}, must be None or one of {_NORMAL_TYPES}"
            )
        if isinstance(self.cfg.density_bias, str) and self.cfg.density_bias not in (
            "blob_magic3d",
            "blob_dreamfusion",
        ):
            raise ValueError(
                f"density_bias is {self.cfg.density_bias!r}, must be 'blob_magic3d', 'blob_dreamfusion' or a float"
            )
        self.density_blob_std = self.cfg.density_blob_std
        self.encoding = get_encoding(self.cfg.n_input_dims, self.cfg.pos_encoding_config)
        width, network = self.encoding.n_output_dims, self.cfg.mlp_network_config
        self.density_network = get_mlp(width, 1, network)
        if self.cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(width, self.cfg.n_feature_dims, network)
        if self.cfg.normal_type == "pred":
            self.normal_network = get_mlp(width, 3, network)
        self.density_activation = get_activation(self.cfg.density_activation)

    def get_activated_density(
        self, points: Float[Tensor, "*batch dim"], density: Float[Tensor, "*batch 1"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
        """The network's output at world points plus the bias, before and after the activation."""
        raw = density + self._density_bias(points)
        return raw, self.density_activation(raw)

    def _density_bias(self, points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 1"] | float:
        bias, scale, std = self.cfg.density_bias, self.cfg.density_blob_scale, self.density_blob_std
        if bias == "blob_magic3d":  # Magic3D, supplementary: a cone around the origin
            return scale * (1 - points.norm(dim=-1, keepdim=True) / std)
        if bias == "blob_dreamfusion":  # DreamFusion, appendix A.2
            return scale * torch.exp(-0.5 * (points**2).sum(dim=-1, keepdim=True) / std**2)
        return float(bias)

    def _encode(self, points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch feature"]:
        unit = contract_to_unisphere(points, self.bbox, self.unbounded)
        return self.encoding(unit.reshape(-1, self.cfg.n_input_dims)).view(*points.shape[:-1], -1)

    def forward(self, points: Float[Tensor, "*batch dim"], output_normal: bool = False) -> dict[str, Tensor]:
        """`density` (*batch, 1), `features`, and on request unit `normal` and `shading_normal`, at world points."""
        analytic = output_normal and self.cfg.normal_type == "analytic"
        grad_enabled = torch.is_grad_enabled()
        with torch.set_grad_enabled(grad_enabled or analytic):
            if analytic and not points.requires_grad:
                points = points.detach().requires_grad_(True)
            encoded = self._encode(points)
            raw, density = self.get_activated_density(points, self.density_network(encoded))
            output = {"density": density}
            if self.cfg.n_feature_dims > 0:
                output["features"] = self.feature_network(encoded)
            if output_normal:
                normal = self._normal(points, encoded, raw, density)
                output |= {"normal": normal, "shading_normal": normal}
        return output if grad_enabled else {key: value.detach() for key, value in output.items()}

    def _normal(
        self, points: Tensor, encoded: Tensor, raw: Tensor, density: Tensor
    ) -> Float[Tensor, "*batch 3"]:
        kind, eps = self.cfg.normal_type, self.cfg.finite_difference_normal_eps
        if kind == "pred":
            normal = self.normal_network(encoded)
        elif kind == "analytic":
            # the activation is increasing, so the gradient before it points the same way, and does not underflow
            normal = -torch.autograd.grad(raw.sum(), points, create_graph=True)[0]
        elif kind == "finite_difference_laplacian":
            offsets = eps * torch.eye(3, device=points.device)
            ahead, behind = self._density_at(points, offsets), self._density_at(points, -offsets)
            normal = (behind - ahead) / (2 * eps)
        elif kind == "finite_difference":
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

    def forward_field(self, points: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor | None]:
        if self.cfg.isosurface_deformable_grid:
            threestudio.warn("implicit-volume has no deformable grid: isosurface_deformable_grid is ignored")
        return self.forward_density(points), None

    def forward_level(self, field: Float[Tensor, "*batch 1"], threshold: float) -> Float[Tensor, "*batch 1"]:
        return -(field - threshold)

    def export(self, points: Float[Tensor, "*batch dim"], **kwargs) -> dict[str, Tensor]:
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self.feature_network(self._encode(points))}

    @staticmethod
    def create_from(
        other: BaseGeometry, cfg: dict | None = None, copy_net: bool = True, **kwargs
    ) -> "ImplicitVolume":
        """A volume with another's encoding and density, and with `copy_net` its features and normals."""
        if not isinstance(other, ImplicitVolume):
            raise TypeError(
                f"implicit-volume can be made from an implicit-volume, not from {type(other).__name__}"
            )
        volume = ImplicitVolume(cfg, **kwargs)
        names = ["encoding", "density_network"]
        if copy_net:
            names += ["feature_network"] * (0 < volume.cfg.n_feature_dims == other.cfg.n_feature_dims)
            names += ["normal_network"] * (volume.cfg.normal_type == other.cfg.normal_type == "pred")
        for name in names:
            getattr(volume, name).load_state_dict(getattr(other, name).state_dict())
        return volume

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        anneal = self.cfg.anneal_density_blob_std_config
        if anneal is not None:
            span = anneal["max_anneal_step"] - anneal["min_anneal_step"]
            progress = min(max((global_step - anneal["min_anneal_step"]) / span, 0.0), 1.0)
            self.density_blob_std = anneal["start_val"] + progress * (anneal["end_val"] - anneal["start_val"])
