"""The composition root: one Config in, running processes out. Nothing else constructs collaborators."""
