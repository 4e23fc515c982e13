"""The methods: one file each, every one a leaf of the import graph."""
