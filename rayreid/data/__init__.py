"""Crops: where they come from, how they are varied, sampled and loaded."""
