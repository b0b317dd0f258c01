"""Presence as a gateway sees it: its own members told to everybody, everybody's told to its clients."""
