"""Pages for operators: each reads and changes what the admin API does, by its endpoints."""
