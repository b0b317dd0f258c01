"""What others offer for the same job, run beside us. Nothing of Carillon is imported here."""
