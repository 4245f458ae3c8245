"""What gateways count of the usage that providers report, wire form by wire form."""
