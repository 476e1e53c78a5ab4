"""The commands of the workshop; `imagedream.cli` finds them by name."""
