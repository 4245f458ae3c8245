"""Commands on both stores at once."""
