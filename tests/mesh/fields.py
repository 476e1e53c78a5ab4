"""Density fields whose shape is known."""

import torch


def ball(radius, highest=100.0, centre=(0.0, 0.0, 0.0), sharpness=400.0):
    centre = torch.tensor(centre)
    return lambda points: highest * torch.sigmoid((radius - (points - centre).norm(dim=-1)) * sharpness)


def box(half_sides, highest=100.0, centre=(0.0, 0.0, 0.0), sharpness=400.0):
    half, centre = torch.tensor(half_sides), torch.tensor(centre)
    return lambda points: highest * torch.sigmoid((half - (points - centre).abs()).amin(-1) * sharpness)


def plain(*rgb):
    return lambda points: torch.tensor(rgb).expand(len(points), 3)


grey = plain(0.5, 0.5, 0.5)
