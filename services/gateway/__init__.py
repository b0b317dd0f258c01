"""The stateless edge: it holds the client connections and relays through NATS."""
