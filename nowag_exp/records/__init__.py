"""What is kept of an experiment, and the tables made from it."""
