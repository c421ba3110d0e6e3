"""How the service treats jobs of each kind."""
