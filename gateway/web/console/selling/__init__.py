"""Pages of how plans are sold: coupons and experiments."""
