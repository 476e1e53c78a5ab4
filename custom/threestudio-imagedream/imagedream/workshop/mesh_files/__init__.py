"""Mesh files from elsewhere become parts with surfaces: glTF, OBJ, PLY, STL."""
