"""Orders: where an order is on its way to the customer."""
