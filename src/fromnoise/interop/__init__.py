"""Checkpoints of others, in and out: folders in the layout of diffusers, their weights, schedules and encoders."""
