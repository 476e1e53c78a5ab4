"""For `DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER)`, where imagedream is installed."""

from imagedream.pipeline import ImageDreamPipeline  # noqa: F401
