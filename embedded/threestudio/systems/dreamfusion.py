"""The plainest system: renders, one guidance, regularisers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import threestudio
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.ops import binary_cross_entropy, dot


@threestudio.register("dreamfusion-system")
class DreamFusion(BaseLift3DSystem):
    """Any guidance that takes a render and the batch's cameras, such as `stable-diffusion-guidance`."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        pass

    cfg: Config

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.renderer(**batch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        answer = self.guidance(out["comp_rgb"], self.prompt_processor(), **batch, rgb_as_latents=False)
        terms = {name: value for name, value in answer.items() if name.startswith("loss_")}
        for name, value in answer.items():
            if not (isinstance(value, Tensor) and value.numel() > 1):
                self.log(f"train/{name}", value)

        opacity, lambdas = out["opacity"], self.cfg.loss
        if self.C(lambdas.lambda_orient) > 0:
            if "normal" not in out:
                raise ValueError(
                    "lambda_orient needs normals; use a material with requires_normal, or set it to 0"
                )
            away = out["weights"].detach() * dot(out["normal"], out["t_dirs"]).clamp_min(0) ** 2
            terms["loss_orient"] = away.sum() / (opacity > 0).sum()
        clamped = opacity.clamp(1e-3, 1 - 1e-3)
        terms["loss_sparsity"] = (opacity**2 + 0.01).sqrt().mean()
        terms["loss_opaque"] = binary_cross_entropy(clamped, clamped)
        if "lambda_z_variance" in lambdas and (opacity > 0.5).any():
            terms["loss_z_variance"] = out["z_variance"][opacity > 0.5].mean()
        for name in terms.keys() - answer.keys():
            self.log(f"train/{name}", terms[name])
        for name, value in lambdas.items():
            self.log(f"train_params/{name}", self.C(value))
        weighted = [value * self.C(lambdas[f"lambda_{name[5:]}"]) for name, value in terms.items()]
        return {"loss": torch.stack(weighted).sum()}

    def _save(self, filename: str, out: dict[str, Any]) -> None:
        cells = [{"type": "rgb", "img": out["comp_rgb"][0], "kwargs": {"data_format": "HWC"}}]
        if "comp_normal" in out:
            normal = {"data_format": "HWC", "data_range": (0, 1)}
            cells.append({"type": "rgb", "img": out["comp_normal"][0], "kwargs": normal})
        grey = {"cmap": None, "data_range": (0, 1)}
        cells.append({"type": "grayscale", "img": out["opacity"][0, :, :, 0], "kwargs": grey})
        self.save_image_grid(filename, cells, step=self.true_global_step)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._save(f"it{self.true_global_step}-{batch['index'][0]}.png", self(batch))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._save(f"it{self.true_global_step}-test/{batch['index'][0]}.png", self(batch))

    def on_test_epoch_end(self) -> None:
        name = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            name, name, r"(\d+)\.png", save_format="mp4", fps=30, step=self.true_global_step
        )
