"""Stand-in for wandb: imported with threestudio, used by a logger that is off."""
