"""What every process needs: bus, service loop, settings, logs, metrics, health. It knows no domain noun."""
