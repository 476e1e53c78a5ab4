"""Tiny models in the layouts of Stable Diffusion and Zero123; random weights from a seed."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)


def _save_latent_diffusion(folder: Path, in_channels: int) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    unet.save_pretrained(folder / "unet")
    vae = AutoencoderKL(  # 8 pixels a latent, as threestudio expects
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False).save_pretrained(folder / "scheduler")


def save_tiny_stable_diffusion(folder: Path) -> str:
    """Network, autoencoder, text encoder and a tokenizer that knows letters only."""
    _save_latent_diffusion(folder, in_channels=4)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokens = folder / "tokenizer"
    tokens.mkdir()
    (tokens / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tokens / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tokens / "vocab.json"), str(tokens / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(tokens)
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index = {
        "_class_name": "StableDiffusionPipeline",
        **{name: ["diffusers", part] for name, part in parts.items()},
    }
    for name, part in (("text_encoder", "CLIPTextModel"), ("tokenizer", "CLIPTokenizer")):
        index[name] = ["transformers", part]
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


def save_tiny_zero123(folder: Path) -> str:
    """Network, autoencoder, image encoder and camera projection."""
    from threestudio.models.guidance.zero123_guidance import projection_class

    _save_latent_diffusion(folder, in_channels=8)
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=12,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    projection_class()(in_channel=16, out_channel=16).save_pretrained(folder / "cc_projection")
    return str(folder)
