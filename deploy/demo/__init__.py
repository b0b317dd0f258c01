"""`python -m deploy.demo`: everything on this machine, from nothing to live events."""
