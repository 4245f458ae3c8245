"""JSON texts of any size: the values that a selection names, and nothing else of them."""
