"""Each operator in plain PyTorch at float32: its definition, and the oracle of its tests."""
