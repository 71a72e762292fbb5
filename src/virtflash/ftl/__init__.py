"""The flash translation layer: map, allocation, collection, levelling, refresh and recovery over raw flash."""
