"""Dashboards, alerts, their tests and runbooks."""
