"""What is said about an emulated flash: figures, text, pictures."""
