"""How good results are: image and geometry metrics, and evaluations on toys whose true shape is known."""
