"""What runs beside and inside a replica: the runner, and the servers for models in Python."""
