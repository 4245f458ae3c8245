"""Whether the processes of a role serve: what each finds of itself, and what their supervisor tells probes of them."""
