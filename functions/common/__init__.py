"""What two or more functions share. Nothing here imports a function."""
