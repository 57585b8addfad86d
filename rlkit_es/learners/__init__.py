"""Recipes and the steps that carry them out."""
