"""Chat: what is said in rooms, kept and in order."""
