"""What is thrown at Torpor, a module a kind."""
