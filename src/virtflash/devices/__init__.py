"""What a guest sees: the features a device offers, its configuration space, and the rules of its requests."""
