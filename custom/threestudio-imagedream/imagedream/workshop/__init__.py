"""What makes and measures a model: training, rendering of data, evaluation, batches. The core does not know it."""
