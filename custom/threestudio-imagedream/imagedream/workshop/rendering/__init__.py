"""Meshes become training views: which objects, what is rendered of each, how samples lie on disk."""
