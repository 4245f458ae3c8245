"""What a call used: the classes that usage is counted in, and how reports of it merge."""
