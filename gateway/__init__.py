"""What the gateway does: moves bytes and remembers. Every decision it acts on comes from `policies`."""
