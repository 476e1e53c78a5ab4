"""Stand-in for envlight: imported with threestudio, used by PBR materials."""
