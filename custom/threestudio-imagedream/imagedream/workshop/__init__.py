"""What makes and measures a model: training, reading and rendering of meshes, evaluation, batches. The core does not know it."""
