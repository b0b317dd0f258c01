"""What a WebSocket fan-out costs the server: Carillon beside its peers, in one run, one load generator."""
