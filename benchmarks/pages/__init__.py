"""What pages take with many accounts and calls, and what they cost the calls beside them."""
