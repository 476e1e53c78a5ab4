"""Stand-in for IPython: imported with threestudio's copy of Zero123."""
