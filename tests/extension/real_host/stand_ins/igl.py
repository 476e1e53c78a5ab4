"""Stand-in for libigl: imported with threestudio, used by sketch-guided shapes only."""

fast_winding_number_for_meshes = point_mesh_squared_distance = read_obj = None
