"""The record of what was brought from other systems."""
