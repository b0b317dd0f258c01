"""What every process needs: the bus, the service loop, settings, logs, metrics, health. It knows NATS and no domain noun."""
