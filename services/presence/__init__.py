"""Presence: who is where, folded from what all gateways write."""
