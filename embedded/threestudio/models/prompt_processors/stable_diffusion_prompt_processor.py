"""Text embeddings of Stable Diffusion."""

import os

import torch

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor, hash_prompt


@threestudio.register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """The model's own tokenizer and CLIP text encoder; its last hidden states."""

    @staticmethod
    @torch.no_grad()
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        from transformers import AutoTokenizer, CLIPTextModel

        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(
            pretrained_model_name_or_path, subfolder="text_encoder"
        ).float()
        length = tokenizer.model_max_length
        rows = tokenizer(prompts, padding="max_length", max_length=length).input_ids
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > length:
                raise ValueError(f"a prompt has {len(row)} tokens, at most {length} fit: {prompt!r}")
        tokens = torch.tensor(rows)
        for prompt, embedding in zip(prompts, encoder(tokens)[0], strict=True):
            path = os.path.join(cache_dir, f"{hash_prompt(pretrained_model_name_or_path, prompt)}.pt")
            torch.save(embedding.clone(), path)
