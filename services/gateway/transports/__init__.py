"""How bytes come in and how frames go out, one module per kind of client."""
