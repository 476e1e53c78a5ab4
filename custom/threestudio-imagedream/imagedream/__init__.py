"""ImageDream (arXiv 2312.02201): one picture becomes four consistent views, and the views a 3D model.

The library never imports threestudio; the extension around it does. Importing it does no work: every module is
imported by name (`imagedream.cameras`, `imagedream.pipeline`, …).
"""

__version__ = "0.1.0"
