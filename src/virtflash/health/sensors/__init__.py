"""What is measured: of emulated flash, of Linux's own sensors, and what the platform pushes."""
