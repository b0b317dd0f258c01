"""The wire: what crosses NATS and what clients see. Structs, names and codes only; no I/O."""
