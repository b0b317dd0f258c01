"""How Carillon is run: the demo here, images and charts beside it."""
