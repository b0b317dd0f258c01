"""NATS as Carillon wants it: accounts, least-privilege users, keys."""
