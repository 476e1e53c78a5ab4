"""Stand-in for controlnet-aux: imported with threestudio, used by ControlNet guidance only."""

CannyDetector = NormalBaeDetector = None
