"""What is wrong with a deployment, found by looking at it from where the doctor stands."""
