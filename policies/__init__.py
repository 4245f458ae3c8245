"""What the gateway decides: values in, values out. Nothing here awaits, reads a clock, or imports `gateway`."""
