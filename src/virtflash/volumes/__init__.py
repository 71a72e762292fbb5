"""What a virtual machine owns of a flash: named volumes, the table that says where they lie, and who changes it."""
