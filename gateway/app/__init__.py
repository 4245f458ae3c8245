"""The composition root: one Config in, running roles out. Nothing else constructs collaborators."""
