"""This repository, cloned into threestudio's `custom/`, leads to the extension inside it."""

import importlib

if __package__:  # not as the plain file that pytest takes it for
    importlib.import_module(".custom.threestudio-imagedream", __name__)
