"""The real model classes at a size that tests can afford; random weights from a seed."""

from pathlib import Path

import PIL.Image
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from imagedream.encoders import ImageTextEncoder
from imagedream.model import MultiViewUNet
from imagedream.pipeline import ImageDreamPipeline


def brick(path: Path, colour=(200, 60, 20)) -> Path:
    """A picture of 40 x 40 pixels with a box in it, 30 wide and 20 high, on nothing."""
    picture = PIL.Image.new("RGBA", (40, 40))
    picture.paste((*colour, 255), (5, 10, 35, 30))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def tiny_unet(controllers: str = "pixel", seed: int = 0) -> MultiViewUNet:
    torch.manual_seed(seed)
    unet = dict(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(1, 2),
        cross_attention_dim=16,
        use_linear_projection=True,
    )
    if controllers == "none":
        projection = None
    elif controllers == "global":
        projection = dict(image_embed_dim=24, num_image_text_embeds=4)
    else:
        projection = dict(embed_dims=32, hidden_dims=32, depth=1, dim_head=16, heads=2, num_queries=4)
    return MultiViewUNet(unet, controllers, projection).eval()


def tiny_vae(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    ).eval()


def tiny_encoder(seed: int = 0, **changed) -> ImageTextEncoder:
    torch.manual_seed(seed)
    config = dict(
        embed_dim=24,
        vision_cfg=dict(image_size=16, patch_size=8, width=32, layers=3, head_width=16),
        text_cfg=dict(context_length=12, vocab_size=49408, width=16, heads=2, layers=3),
    )
    return ImageTextEncoder(**{**config, **changed}).eval()


def tiny_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def tiny_pipeline(controllers: str = "pixel", prediction_type: str = "v_prediction") -> ImageDreamPipeline:
    pipeline = ImageDreamPipeline(
        tiny_unet(controllers), tiny_vae(), tiny_encoder(), tiny_scheduler(prediction_type)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
