"""The laboratory: what a flash goes through in years, in minutes."""
