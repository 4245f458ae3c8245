"""The portal: the pages of customers, below `/portal` of the public listener."""
