"""A picture, or several, as what the model is shown: cut out, centred, checked; and where it was taken from."""

from imagedream.image_prompt.prompt import ImagePrompt, load_image_prompt

__all__ = ["ImagePrompt", "load_image_prompt"]
