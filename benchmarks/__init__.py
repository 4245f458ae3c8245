"""What things cost, measured side by side in one run. Each module runs alone: `python -m benchmarks.peers`."""
